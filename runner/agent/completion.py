"""A streamed chat completion: bytes in, deltas and at last a reply out. No I/O.

Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from runner.agent.chat import Call, Function, Reply
from runner.agent.failures import ModelFailure, classify_error
from runner.model import Usage

MAX_EVENT = 4 * 1024 * 1024
MAX_REPLY = 8 * 1024 * 1024
MAX_CALLS = 128
DONE = b"[DONE]"


class EventParser:
    """Bytes in any split to the ``data`` of each event. Comments and other fields are skipped.

    Raises (from :meth:`feed`):
        ModelFailure: an event is longer than ``MAX_EVENT`` bytes.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        events: list[bytes] = []
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._size += len(chunk)
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
                self._size = len(self._rest)
        if self._size > MAX_EVENT:
            raise ModelFailure("the model's stream has no end of event", code="stream_cut")
        return events


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_chunk = msgspec.json.Decoder(_Chunk)


@dataclass(frozen=True, slots=True)
class Delta:
    """What one read added: text of the answer and of the reasoning."""

    text: str = ""
    reasoning: str = ""


@dataclass(slots=True)
class _OpenCall:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Completion:
    """Collects one stream. Feed it until it is :attr:`done` or the stream ends, then :meth:`reply`.

    Raises (from :meth:`feed`):
        ModelFailure: the stream carries an error, or no chunks of a chat completion.
    """

    def __init__(self) -> None:
        self._events = EventParser()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _OpenCall] = {}
        self._finish: str | None = None
        self._usage: Usage | None = None
        self._kept = 0
        self.done = False

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self._text)

    def feed(self, data: bytes) -> Delta:
        text, reasoning = len(self._text), len(self._reasoning)
        for event in self._events.feed(data):
            if event.strip() == DONE:
                self.done = True
            elif not self.done:
                self._apply(event)
        return Delta("".join(self._text[text:]), "".join(self._reasoning[reasoning:]))

    def reply(self) -> Reply:
        """The whole answer.

        Raises:
            ModelFailure: ``stream_cut``: the stream ended before the model did.
        """
        if self._finish is None:
            raise ModelFailure("the model's answer was cut off", code="stream_cut", retryable=True)
        return Reply(
            text=self.text,
            reasoning="".join(self._reasoning),
            calls=tuple(
                Call(id=call.id, function=Function(call.name, "".join(call.arguments)))
                for _, call in sorted(self._calls.items())
            ),
            finish=self._finish,
            usage=self._usage,
        )

    def _apply(self, event: bytes) -> None:
        try:
            chunk = _chunk.decode(event)
        except (msgspec.DecodeError, RecursionError) as e:
            raise ModelFailure(
                f"the model's stream holds something else than chunks: {e}",
                code="stream_cut",
                retryable=True,
            ) from None
        if bytes(chunk.error):
            raise classify_error(None, b'{"error":' + bytes(chunk.error) + b"}")
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        for choice in chunk.choices[:1]:
            if choice.usage is not None:
                self._usage = _usage(choice.usage)
            if choice.delta is not None:
                self._add(choice.delta)
            if choice.finish_reason is not None:
                self._finish = choice.finish_reason

    def _add(self, delta: _Delta) -> None:
        if delta.content:
            self._text.append(delta.content)
            self._grow(len(delta.content))
        if delta.reasoning_content:
            self._reasoning.append(delta.reasoning_content)
            self._grow(len(delta.reasoning_content))
        for part in delta.tool_calls or ():
            call = self._calls.setdefault(part.index, _OpenCall())
            if part.id:
                call.id = part.id
            if part.function is not None:
                call.name = part.function.name or call.name
                call.arguments.append(part.function.arguments or "")
                self._grow(len(part.function.arguments or ""))

    def _grow(self, size: int) -> None:
        self._kept += size
        if self._kept > MAX_REPLY or len(self._calls) > MAX_CALLS:
            raise ModelFailure(
                f"the model's answer is over {MAX_REPLY} characters or {MAX_CALLS} calls",
                code="reply_too_large",
                hint="ask for a shorter answer",
            )


def _usage(raw: _Usage) -> Usage:
    cached = raw.cached_tokens
    if cached is None and raw.prompt_tokens_details is not None:
        cached = raw.prompt_tokens_details.cached_tokens
    details = raw.completion_tokens_details
    return Usage(
        input_tokens=raw.prompt_tokens,
        cached_tokens=cached,
        output_tokens=raw.completion_tokens,
        reasoning_tokens=None if details is None else details.reasoning_tokens,
    )
