"""``grep``: lines by a regular expression."""

from __future__ import annotations

import msgspec

from runner.agent.tools.search import search
from runner.agent.tools.tool import Outcome, Room, Tool


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    pattern: str
    path: str = "."
    glob: str = ""


async def run(arguments: Arguments, room: Room) -> Outcome:
    return await search(
        room,
        arguments.path,
        "grep",
        arguments.pattern.replace("\0", ""),
        arguments.glob.replace("\0", ""),
    )


TOOL = Tool(
    name="grep",
    description="Find lines that match a Python regular expression; answers `path:line:text`.",
    kind="search",
    arguments=Arguments,
    properties={
        "pattern": {"type": "string"},
        "path": {"type": "string", "description": "Folder to search."},
        "glob": {"type": "string", "description": "Only files like this, such as `*.py`."},
    },
    required=("pattern",),
    run=run,
)
