"""``bash``: run a command in the workspace."""

from __future__ import annotations

import os

import msgspec

from runner.agent.tools.tool import Outcome, Room, Tool, environment

DEFAULT_TIMEOUT = 120.0
MAX_TIMEOUT = 600.0
KEEP = 30_000
SHELL = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"  # noqa: PTH110


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    command: str
    timeout: float | None = None


async def run(arguments: Arguments, room: Room) -> Outcome:
    """Output and exit code; at the deadline the command and everything it started is killed."""
    if "\0" in arguments.command:
        return Outcome("a command cannot hold a NUL", failed=True)
    timeout = min(max(arguments.timeout or DEFAULT_TIMEOUT, 0.1), MAX_TIMEOUT)
    end = await room.children.run(
        [SHELL, "-c", arguments.command],
        cwd=room.workspace.root,
        env=environment(),
        timeout=timeout,
        keep=KEEP,
    )
    said = end.output if not end.output or end.output.endswith("\n") else end.output + "\n"
    if end.exit_code is None:
        return Outcome(f"{said}[killed: not done after {timeout:g} s]", failed=True)
    return Outcome(f"{said}[exit code {end.exit_code}]", failed=end.exit_code != 0)


TOOL = Tool(
    name="bash",
    description=(
        "Run a shell command in the workspace. Output (stdout and stderr together) is kept up to "
        "30,000 characters, head and tail. No input, no terminal. Start a server with `&`."
    ),
    kind="execute",
    arguments=Arguments,
    properties={
        "command": {"type": "string"},
        "timeout": {"type": "number", "description": "Seconds, default 120, at most 600."},
    },
    required=("command",),
    run=run,
)
