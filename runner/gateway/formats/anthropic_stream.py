"""A streamed chat completion as Anthropic's events, each as soon as it can go out. Pure.

https://docs.anthropic.com/en/api/messages-streaming

Chat may send parts of several tool calls by turns; Anthropic's blocks come one after the other.
So one block is open at a time. Text and reasoning close as soon as something else begins; a tool
call closes when its arguments are one whole JSON object, and what begins before that waits.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from runner.gateway.failure import GatewayFailure
from runner.gateway.formats import Json, outcome, thinking, toolids
from runner.gateway.formats.anthropic_response import answer_text, message_id
from runner.gateway.formats.errors import anthropic_body, broken, stream_error, truncated
from runner.gateway.formats.fields import is_object_text

MAX_CALLS = 256

_Kind = Literal["thinking", "text", "tool"]


@dataclass(slots=True)
class _Block:
    """``key`` is a call's index in the chat stream; ``parts`` is all that was said in it."""

    kind: _Kind
    key: int = -1
    id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)
    sent: int = 0
    checked: int = 0

    @property
    def text(self) -> str:
        return "".join(self.parts)


class ChatToAnthropicStream:
    """Feed it chunks, then call :meth:`end` once; each gives the events that can go out now.

    An error chunk, a chunk that is none, or an end without ``finish_reason`` gives an ``error``
    event; :attr:`failure` then says what happened, and everything after it is ignored. Arguments
    of tools go out as the model writes them, so here nothing makes broken JSON whole.

    Args: those of :func:`~runner.gateway.formats.anthropic_response.to_anthropic`.
    """

    def __init__(
        self, *, model: str, stop_sequences: Collection[str] = (), hide_thinking: bool = False
    ) -> None:
        self.failure: GatewayFailure | None = None
        self._model = model
        self._stop_sequences = stop_sequences
        self._hide = hide_thinking
        self._id: str | None = None
        self._open: _Block | None = None
        self._waiting: list[_Block] = []
        self._calls: dict[int, _Block] = {}
        self._index = 0
        self._finish: Json | None = None
        self._usage: Json | None = None

    def feed(self, chunk: Json) -> list[Json]:
        if self.failure is not None:
            return []
        if chunk.get("error") is not None:
            return self.fail(stream_error(chunk))
        events: list[Json] = []
        if self._id is None:
            self._id = str(chunk.get("id") or "")
            events += self._start()
        self._usage = outcome.usage_of(chunk) or self._usage
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            # A message has one content: further choices cannot be said.
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                events += self._choice(choice)
        return events

    def end(self) -> list[Json]:
        """The provider's stream is over: the last events, or that it was cut off."""
        if self.failure is not None:
            return []
        if self._finish is None:
            return self.fail(truncated())
        if any(not call.name for call in self._calls.values()):
            return self.fail(broken("has a tool call without a name").failure)
        events: list[Json] = []
        while self._open is not None or self._waiting:
            events += self._close()
            events += self._open_next()
        reason, sequence = outcome.stop_reason(
            self._finish, called=bool(self._calls), stop_sequences=self._stop_sequences
        )
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        usage = outcome.anthropic_usage(self._usage)
        return [
            *events,
            {"type": "message_delta", "delta": delta, "usage": usage},
            {"type": "message_stop"},
        ]

    def fail(self, failure: GatewayFailure) -> list[Json]:
        """The answer ends here, and this is why; also for a connection that broke."""
        self.failure = failure
        return [anthropic_body(failure)]

    def _start(self) -> list[Json]:
        message: Json = {
            "id": message_id(self._id or ""),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": outcome.anthropic_usage(None),
        }
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def _choice(self, choice: Json) -> list[Json]:
        events: list[Json] = []
        delta = choice.get("delta")
        if isinstance(delta, dict):
            if reasoning := thinking.of_chat(delta):
                events += self._say("thinking", reasoning)
            if said := answer_text(delta):
                events += self._say("text", said)
            calls = delta.get("tool_calls")
            for position, call in enumerate(calls if isinstance(calls, list) else ()):
                if isinstance(call, dict):
                    events += self._call(call, position)
                if self.failure is not None:
                    return events
        if choice.get("finish_reason") is not None:
            self._finish = choice
        return events

    def _say(self, kind: _Kind, words: str) -> list[Json]:
        last = self._waiting[-1] if self._waiting else self._open
        if last is None or last.kind != kind:
            last = _Block(kind)
            self._waiting.append(last)
        last.parts.append(words)
        return self._go_on()

    def _call(self, call: Json, position: int) -> list[Json]:
        index = call.get("index")
        key = index if isinstance(index, int) else position
        block = self._calls.get(key)
        if block is None:
            if len(self._calls) >= MAX_CALLS:
                return self.fail(broken(f"has more than {MAX_CALLS} tool calls").failure)
            block = self._calls[key] = _Block("tool", key)
            self._waiting.append(block)
        block.id = block.id or _text(call, "id")
        function = call.get("function")
        if isinstance(function, dict):
            block.name = block.name or _text(function, "name")
            if arguments := _text(function, "arguments"):
                block.parts.append(arguments)
        return self._go_on()

    def _go_on(self) -> list[Json]:
        """What the open block has to say; then the next ones, while they may begin."""
        events = self._deltas()
        while self._waiting and self._may_close():
            head = self._waiting[0]
            if head.kind == "tool" and not head.name:
                break
            events += self._close()
            events += self._open_next()
        return events

    def _may_close(self) -> bool:
        block = self._open
        if block is None or block.kind != "tool":
            return True
        if block.checked == len(block.parts):
            return False  # it was not whole, and nothing has come since
        block.checked = len(block.parts)
        return is_object_text(block.text)

    def _open_next(self) -> list[Json]:
        if not self._waiting:
            return []
        self._open = block = self._waiting.pop(0)
        if block.kind == "thinking" and self._hide:
            return []  # such a block has no deltas: it goes out whole, when it closes
        start: Json
        match block.kind:
            case "thinking":
                start = {"type": "thinking", "thinking": "", "signature": ""}
            case "text":
                start = {"type": "text", "text": ""}
            case "tool":
                id_ = block.id or toolids.made_up(self._id or "", block.key)
                start = {
                    "type": "tool_use",
                    "id": toolids.to_anthropic(id_),
                    "name": block.name,
                    "input": {},
                }
        return [self._event("content_block_start", content_block=start), *self._deltas()]

    def _deltas(self) -> list[Json]:
        """What was said in the open block since the last time."""
        block = self._open
        if block is None or block.sent == len(block.parts):
            return []
        words = "".join(block.parts[block.sent :])
        block.sent = len(block.parts)
        match block.kind:
            case "thinking" if self._hide:
                return []
            case "thinking":
                return [self._delta("thinking_delta", thinking=words)]
            case "text":
                return [self._delta("text_delta", text=words)]
            case "tool":
                return [self._delta("input_json_delta", partial_json=words)]

    def _close(self) -> list[Json]:
        block = self._open
        if block is None:
            return []
        events: list[Json] = []
        if block.kind == "thinking":
            if self._hide:
                whole = thinking.hidden(block.text)
                events.append(self._event("content_block_start", content_block=whole))
            else:
                signature = thinking.sign(block.text)
                events.append(self._delta("signature_delta", signature=signature))
        events.append(self._event("content_block_stop"))
        self._open = None
        self._index += 1
        return events

    def _delta(self, kind: str, **fields: str) -> Json:
        return self._event("content_block_delta", delta={"type": kind, **fields})

    def _event(self, kind: str, **fields: Any) -> Json:
        return {"type": kind, "index": self._index, **fields}


def _text(holder: Json, field: str) -> str:
    value = holder.get(field)
    return value if isinstance(value, str) else ""
