"""A step of the model as the API sends it: one JSON object, or chunks of an event stream."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner.demo.script import Step

BYTES_PER_TOKEN = 4
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one answer."""

    prompt: int
    cached: int
    completion: int
    reasoning: int

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "cached_tokens": self.cached,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer: ``first_call`` is the number its first tool call gets in the conversation."""

    id: str
    model: str
    created: int
    step: Step
    counts: Counts
    first_call: int

    def as_json(self) -> bytes:
        """The body of an answer that is not streamed."""
        step = self.step
        message: dict[str, Any] = {"role": "assistant", "content": step.text or None}
        if step.reasoning:
            message["reasoning_content"] = step.reasoning
        if step.calls:
            message["tool_calls"] = [
                {
                    "index": i,
                    "id": self._call_id(i),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for i, call in enumerate(step.calls)
            ]
        choice = {"index": 0, "message": message, "finish_reason": step.finish}
        return _dump(
            self._head("chat.completion") | {"choices": [choice], "usage": self.counts.as_json()}
        )

    def as_events(self, *, include_usage: bool) -> Iterator[bytes]:
        """The chunks of a streamed answer, each one whole ``data:`` event.

        Usage goes into a last chunk without choices when the request asked for it, otherwise
        into the choice that carries the ``finish_reason``: Kimi does both.
        """
        for delta in self._deltas():
            yield self._event([{"index": 0, "delta": delta, "finish_reason": None}])
        last: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": self.step.finish}
        usage = self.counts.as_json()
        yield self._event([last if include_usage else last | {"usage": usage}])
        if include_usage:
            yield self._event([], usage=usage)
        yield DONE

    def _deltas(self) -> Iterator[dict[str, Any]]:
        step = self.step
        yield {"role": "assistant", "content": ""}
        for piece in pieces(step.reasoning, 0):
            yield {"reasoning_content": piece}
        for piece in pieces(step.text, step.chunks):
            yield {"content": piece}
        for i, call in enumerate(step.calls):
            function = {"name": call.name, "arguments": ""}
            yield {
                "tool_calls": [
                    {
                        "index": i,
                        "id": self._call_id(i),
                        "type": "function",
                        "function": function,
                    }
                ]
            }
            for piece in pieces(call.arguments, 3):
                yield {"tool_calls": [{"index": i, "function": {"arguments": piece}}]}

    def _event(self, choices: list[dict[str, Any]], **extra: Any) -> bytes:
        head = self._head("chat.completion.chunk")
        return b"data: " + _dump(head | {"choices": choices} | extra) + b"\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _call_id(self, index: int) -> str:
        number = f":{self.first_call + index}"
        return self.step.calls[index].name[: 64 - len(number)] + number


def count_calls(messages: list[Mapping[str, Any]]) -> int:
    """Tool calls in a conversation so far: Kimi numbers them through."""
    return sum(len(m.get("tool_calls") or ()) for m in messages)


def limited(step: Step, tokens: int | None) -> Step:
    """The step cut to ``tokens`` of reasoning and text; tool calls are not cut."""
    if tokens is None:
        return step
    room = tokens * BYTES_PER_TOKEN
    reasoning = _cut(step.reasoning, room)
    text = _cut(step.text, room - len(reasoning.encode()))
    if (reasoning, text) == (step.reasoning, step.text):
        return step
    return replace(step, reasoning=reasoning, text=text, calls=(), finish="length")


def _cut(text: str, size: int) -> str:
    return text.encode()[: max(size, 0)].decode("utf-8", "ignore")


def tokens_of(text: str) -> int:
    """Tokens of a text: a quarter of its bytes, rounded up."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def pieces(text: str, count: int) -> list[str]:
    """The text in ``count`` even pieces (fewer when it is too short); 0 means word by word."""
    if count <= 0:
        return re.findall(r"\s*\S+\s*?(?=\s|$)|\s+", text)
    size = max(-(-len(text) // count), 1)
    return [text[i : i + size] for i in range(0, len(text), size)]


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
