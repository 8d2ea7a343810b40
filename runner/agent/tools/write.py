"""``write``: a whole file."""

from __future__ import annotations

import asyncio

import msgspec

from runner.agent.tools.tool import Outcome, Room, Tool


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    content: str


async def run(arguments: Arguments, room: Room) -> Outcome:
    data = arguments.content.encode("utf-8", "surrogatepass")
    new = await asyncio.to_thread(room.workspace.replace, arguments.path, data, make_parents=True)
    return Outcome(f"{'created' if new else 'replaced'} {arguments.path}, {len(data)} bytes")


TOOL = Tool(
    name="write",
    description="Write a file; missing folders are made, an existing file is replaced.",
    kind="edit",
    arguments=Arguments,
    properties={"path": {"type": "string"}, "content": {"type": "string"}},
    required=("path", "content"),
    run=run,
)
