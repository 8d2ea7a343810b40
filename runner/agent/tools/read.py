"""``read``: lines of a text file."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import msgspec

from runner.agent.tools.tool import Outcome, Room, Tool, ToolError
from runner.agent.tools.workspace import Workspace

MAX_LINES = 2_000
MAX_BYTES = 50_000
MAX_LINE = 2_000
BLOCK = 1 << 16
DEADLINE = 10.0


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    offset: int = 1
    limit: int = MAX_LINES


async def run(arguments: Arguments, room: Room) -> Outcome:
    return await asyncio.to_thread(_read, arguments, room.workspace)


def _read(arguments: Arguments, workspace: Workspace) -> Outcome:
    first = max(arguments.offset, 1)
    last = first + min(max(arguments.limit, 1), MAX_LINES) - 1
    shown: list[str] = []
    size, number, more = 0, 0, False
    with workspace.file(arguments.path) as fd:
        if b"\0" in os.pread(fd, 8192, 0):
            raise ToolError(f"{arguments.path} is a binary file")
        for number, line in enumerate(_lines(fd), start=1):
            if number < first:
                continue
            size += len(line)
            if number > last or size > MAX_BYTES:
                more = True
                break
            shown.append(f"{number:>6}\t{line.decode('utf-8', 'replace')}")
    if not shown:
        return Outcome("(empty file)" if number == 0 else f"(the file has {number} lines)")
    if more:
        shown.append(f"[there is more: go on with offset {first + len(shown)}]")
    return Outcome("\n".join(shown))


def _lines(fd: int) -> Iterator[bytes]:
    """Lines without their ends, each clipped to ``MAX_LINE`` bytes. Memory stays small."""
    end = time.monotonic() + DEADLINE
    line = b""
    while block := os.read(fd, BLOCK):
        if time.monotonic() > end:
            raise ToolError(f"the file could not be read that far in {DEADLINE:g} s")
        *whole, rest = block.split(b"\n")
        for part in whole:
            yield _clip(line + part)
            line = b""
        line = (line + rest)[: MAX_LINE + 1]
    if line:
        yield _clip(line)


def _clip(line: bytes) -> bytes:
    line = line.removesuffix(b"\r")
    return line if len(line) <= MAX_LINE else line[:MAX_LINE] + b" [...]"


TOOL = Tool(
    name="read",
    description="Read a text file with line numbers, up to 2,000 lines or 50 KB at a time.",
    kind="read",
    arguments=Arguments,
    properties={
        "path": {"type": "string"},
        "offset": {"type": "integer", "description": "First line, from 1."},
        "limit": {"type": "integer", "description": "Number of lines."},
    },
    required=("path",),
    run=run,
)
