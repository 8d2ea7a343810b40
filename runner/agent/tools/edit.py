"""``edit``: replace a passage of a file."""

from __future__ import annotations

import asyncio
import os

import msgspec

from runner.agent.tools.tool import Outcome, Room, Tool, ToolError
from runner.agent.tools.workspace import Workspace

MAX_FILE = 8 * 1024 * 1024


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    old: str
    new: str
    replace_all: bool = False


async def run(arguments: Arguments, room: Room) -> Outcome:
    return await asyncio.to_thread(_edit, arguments, room.workspace)


def _edit(arguments: Arguments, workspace: Workspace) -> Outcome:
    with workspace.file(arguments.path) as fd:
        if os.fstat(fd).st_size > MAX_FILE:
            raise ToolError(f"{arguments.path} is too large to edit (limit {MAX_FILE} bytes)")
        with open(fd, "rb", closefd=False) as file:
            before = file.read(MAX_FILE + 1)
    after, count = replaced(
        before,
        arguments.old.encode("utf-8", "surrogatepass"),
        arguments.new.encode("utf-8", "surrogatepass"),
        every=arguments.replace_all,
    )
    workspace.replace(arguments.path, after)
    return Outcome(f"{arguments.path}: {count} replaced")


def replaced(before: bytes, old: bytes, new: bytes, *, every: bool) -> tuple[bytes, int]:
    """``before`` with ``old`` replaced, and how often. Pure.

    Raises:
        ToolError: ``old`` is empty, equal to ``new``, not there, or not unique.
    """
    if not old:
        raise ToolError("old is empty: use write for a new file")
    if old == new:
        raise ToolError("old and new are the same")
    count = before.count(old)
    if count == 0:
        raise ToolError("old is not in the file: read it and copy the passage exactly")
    if count > 1 and not every:
        raise ToolError(f"old is there {count} times: make it longer, or set replace_all")
    return before.replace(old, new), count


TOOL = Tool(
    name="edit",
    description=(
        "Replace a passage of a file. `old` must match exactly and be unique, unless replace_all."
    ),
    kind="edit",
    arguments=Arguments,
    properties={
        "path": {"type": "string"},
        "old": {"type": "string"},
        "new": {"type": "string"},
        "replace_all": {"type": "boolean"},
    },
    required=("path", "old", "new"),
    run=run,
)
