"""The built-in tools, in the order in which a model is told of them; ``box`` adds the host's."""

from __future__ import annotations

import msgspec

from runner.agent.chat import MALFORMED, Call
from runner.agent.tools import bash, edit, glob, grep, read, write
from runner.agent.tools.tool import Outcome, Room, Tool, ToolError

ALL: tuple[Tool, ...] = (bash.TOOL, read.TOOL, write.TOOL, edit.TOOL, glob.TOOL, grep.TOOL)
_BY_NAME = {tool.name: tool for tool in ALL}

SCHEMAS: bytes = msgspec.json.encode(
    [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": {
                    "type": "object",
                    "properties": tool.properties,
                    "required": list(tool.required),
                },
            },
        }
        for tool in ALL
    ]
)
"""The built-in part of a request's ``tools``: the same bytes each time."""


def is_built_in(name: str) -> bool:
    return name in _BY_NAME


def kind_of(name: str) -> str:
    """ACP's kind of a tool."""
    return _BY_NAME[name].kind if name in _BY_NAME else "other"


async def run(call: Call, room: Room) -> Outcome:
    """Run one call. Whatever goes wrong becomes a failed outcome that the model can read."""
    if call.function.arguments.startswith(f'{{"{MALFORMED}":'):
        return Outcome("the arguments are not a JSON object: send the call again", failed=True)
    tool = _BY_NAME.get(call.function.name)
    if tool is None:
        return Outcome(f"there is no tool {call.function.name!r}", failed=True)
    try:
        arguments: object = msgspec.json.decode(
            call.function.arguments, type=tool.arguments, strict=False
        )
    except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
        return Outcome(f"the arguments do not fit {tool.name}: {e}", failed=True)
    try:
        return await tool.run(arguments, room)
    except ToolError as e:
        return Outcome(str(e), failed=True)
    except OSError as e:
        return Outcome(f"{tool.name} failed: {e.strerror or e}", failed=True)
