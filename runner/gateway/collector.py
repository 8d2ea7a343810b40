"""The reasoning and the tool calls of one answer, gathered as it passes. No I/O.

Feed it every chunk of a stream, or the whole answer; odd shapes are skipped. What has grown too
long is not remembered, so that one answer cannot fill the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner.gateway.formats import Json
from runner.gateway.reasoning import Thought, key_of

MAX_REASONING = 1_000_000
MAX_ARGUMENTS = 4_000_000
MAX_CALLS = 128


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Collector:
    """Gathers the first choice of one answer.

    Args:
        request: the request as it was sent to the model; its last message is what was answered.
    """

    def __init__(self, request: Json) -> None:
        messages = request.get("messages")
        self._before = messages[-1] if isinstance(messages, list) and messages else None
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._characters = 0
        self._argument_characters = 0
        self._finished = False

    def feed(self, chunk: Json) -> None:
        """One chunk of a stream, or a whole answer."""
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict) or choice.get("index", 0) != 0:
                continue
            said = choice.get("delta") or choice.get("message")
            if isinstance(said, dict):
                self._add(said)
            if choice.get("finish_reason"):
                self._finished = True

    def thoughts(self) -> tuple[Thought, ...]:
        """The reasoning under each call; empty for an answer that is unfinished or has neither."""
        if (
            not (self._finished and self._characters)
            or self._characters > MAX_REASONING
            or self._argument_characters > MAX_ARGUMENTS
        ):
            return ()
        text = "".join(self._reasoning)
        return tuple(
            Thought(key_of(_as_json(call), self._before), text) for call in self._calls.values()
        )

    def _add(self, said: Json) -> None:
        reasoning = _text(said.get("reasoning_content")) or _text(said.get("reasoning"))
        self._characters += len(reasoning)
        if reasoning and self._characters <= MAX_REASONING:
            self._reasoning.append(reasoning)
        calls = said.get("tool_calls")
        for position, part in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(part, dict):
                self._add_call(part, position)

    def _add_call(self, part: Json, position: int) -> None:
        index = part.get("index")
        at = index if isinstance(index, int) else position
        if at not in self._calls and len(self._calls) >= MAX_CALLS:
            return
        call = self._calls.setdefault(at, _Call())
        call.id = _text(part.get("id")) or call.id
        function = part.get("function")
        if not isinstance(function, dict):
            return
        call.name = _text(function.get("name")) or call.name
        arguments = _text(function.get("arguments"))
        self._argument_characters += len(arguments)
        if self._argument_characters <= MAX_ARGUMENTS:
            call.arguments.append(arguments)


def _as_json(call: _Call) -> Json:
    function = {"name": call.name, "arguments": "".join(call.arguments)}
    return {"id": call.id, "function": function}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
