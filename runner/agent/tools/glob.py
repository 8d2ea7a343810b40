"""``glob``: files by name."""

from __future__ import annotations

import msgspec

from runner.agent.tools.search import search
from runner.agent.tools.tool import Outcome, Room, Tool


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    pattern: str
    path: str = "."


async def run(arguments: Arguments, room: Room) -> Outcome:
    return await search(room, arguments.path, "glob", arguments.pattern.replace("\0", ""))


TOOL = Tool(
    name="glob",
    description="Find files by name, such as `**/*.py`. `*` stays within a folder, `**` does not.",
    kind="search",
    arguments=Arguments,
    properties={
        "pattern": {"type": "string"},
        "path": {"type": "string", "description": "Folder to start in."},
    },
    required=("pattern",),
    run=run,
)
