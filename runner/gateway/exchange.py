"""One request and its answer, between a client's API and a provider's. No I/O.

A request is read into the inner language once, shaped for each candidate that is asked, and the
answer is said in the client's own API again. On the way the answer is watched: for its reasoning,
its usage, and whether it was whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from runner.calls import Tokens
from runner.gateway import usage
from runner.gateway.collector import Collector
from runner.gateway.failure import GatewayFailure
from runner.gateway.formats import Json
from runner.gateway.formats.anthropic_request import to_chat
from runner.gateway.formats.anthropic_response import to_anthropic
from runner.gateway.formats.anthropic_stream import ChatToAnthropicStream
from runner.gateway.formats.chat_response import to_chat_response
from runner.gateway.formats.chat_stream import AnthropicToChatStream
from runner.gateway.formats.errors import (
    Untranslatable,
    anthropic_body,
    broken,
    openai_body,
    stream_error,
    truncated,
)
from runner.gateway.formats.streams import ByteStream, Translator
from runner.gateway.reasoning import Thought
from runner.settings.vendors import Format

Api = Literal["openai", "anthropic"]

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Asked:
    """A client's request: ``original`` as it came, ``chat`` in the inner language."""

    api: Api
    original: Json = field(repr=False)
    chat: Json = field(repr=False)
    model: str
    stream: bool
    include_usage: bool
    wants_thinking: bool
    stop_sequences: tuple[str, ...]


def read_request(api: Api, body: bytes) -> Asked:
    """Raises: Untranslatable: it is no request of this API; the failure names the field."""
    try:
        original = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
        raise _refused(f"the body is no JSON object: {str(e)[:200]}") from None
    model = original.get("model")
    if not isinstance(model, str) or not model:
        raise _refused("model: a name is required")
    if not isinstance(original.get("messages"), list) or not original["messages"]:
        raise _refused("messages: a list with at least one message is required")
    if api == "openai":
        options = original.get("stream_options")
        include = isinstance(options, dict) and options.get("include_usage") is True
        stream = original.get("stream") is True
        return Asked(api, original, original, model, stream, include, True, ())
    chat = to_chat(original)
    thinking = original.get("thinking")
    wants = isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive")
    stops = original.get("stop_sequences")
    names = tuple(s for s in stops if isinstance(s, str)) if isinstance(stops, list) else ()
    return Asked(api, original, chat, model, original.get("stream") is True, True, wants, names)


def _refused(message: str) -> Untranslatable:
    return Untranslatable(GatewayFailure(400, "invalid_request_error", message))


def error_body(api: Api, failure: GatewayFailure) -> bytes:
    """A failure in the words of the client's API."""
    return _encode(openai_body(failure) if api == "openai" else anthropic_body(failure))


class Watch:
    """What is learned from an answer while it passes.

    Args:
        sent: the request as the provider got it, in the inner language.
    """

    def __init__(self, format_: Format, sent: Json) -> None:
        self._format = format_
        self._collector = Collector(sent)
        self._usage: Json | None = None
        self._tokens = Tokens()
        self.whole = False

    def event(self, value: Json) -> None:
        """One chunk or event of a stream."""
        if self._format == "openai":
            self._collector.feed(value)
            self._usage = usage.chat_stream(self._usage, value)
            self._tokens = usage.chat_tokens(self._usage)
            choices = value.get("choices")
            for choice in choices if isinstance(choices, list) else ():
                if isinstance(choice, dict) and choice.get("finish_reason"):
                    self.whole = True
        else:
            self._usage = usage.messages_stream(self._usage, value)
            self._tokens = usage.messages_tokens(self._usage)
            self.whole = self.whole or value.get("type") == "message_stop"

    def answer(self, value: Json) -> None:
        """A whole answer."""
        self.whole = True
        if self._format == "openai":
            self._collector.feed(value)
            self._tokens = usage.chat_usage(value)
        else:
            self._tokens = usage.messages_usage(value)

    @property
    def tokens(self) -> Tokens:
        return self._tokens

    def thoughts(self) -> tuple[Thought, ...]:
        """Reasoning to remember; empty unless the answer was whole."""
        return self._collector.thoughts() if self.whole else ()


class AnswerStream:
    """A provider's stream of bytes as the client's. Feed it, then ``end`` or ``fail`` once."""

    def __init__(self, asked: Asked, format_: Format, watch: Watch) -> None:
        to_anthropic_ = asked.api == "anthropic"
        translator = _Tapped(_translator(asked, format_), watch, _filter(asked, format_))
        self._stream = ByteStream(translator, to_anthropic=to_anthropic_)

    @property
    def failure(self) -> GatewayFailure | None:
        """Why the answer is not whole; the client has been told."""
        return self._stream.failure

    def feed(self, data: bytes) -> bytes:
        return self._stream.feed(data)

    def end(self) -> bytes:
        return self._stream.end()

    def fail(self, failure: GatewayFailure) -> bytes:
        return self._stream.fail(failure)


def whole_answer(asked: Asked, format_: Format, body: bytes, watch: Watch) -> bytes:
    """A provider's whole answer as the client's.

    Raises:
        Untranslatable: it is an error, cut off, or no answer.
    """
    value = _decoded(body)
    watch.answer(value)
    return _encode(_said(asked, format_, value))


def whole_as_stream(asked: Asked, format_: Format, body: bytes, watch: Watch) -> bytes:
    """A whole answer for a client that asked for a stream, of a provider that has none."""
    value = _decoded(body)
    watch.answer(value)
    if format_ == "anthropic":
        value = to_chat_response(value, model=asked.model, created=int(time.time()))
    choices = value.get("choices")
    if not isinstance(choices, list):
        raise broken("has no choices")
    chunk = {**value, "object": "chat.completion.chunk"}
    chunk["choices"] = [
        {"index": c.get("index", 0), "delta": _delta(c), "finish_reason": c.get("finish_reason")}
        for c in choices
        if isinstance(c, dict)
    ]
    keep = _filter(asked, "openai")
    stream = ByteStream(_translator(asked, "openai"), to_anthropic=asked.api == "anthropic")
    return stream.feed(b"data: " + _encode(keep(chunk)) + b"\n\n") + stream.end()


def _delta(choice: Json) -> Json:
    message = choice.get("message")
    delta = dict(message) if isinstance(message, dict) else {}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [
            {"index": i, **call} for i, call in enumerate(calls) if isinstance(call, dict)
        ]
    return delta


def _said(asked: Asked, format_: Format, value: Json) -> Json:
    if asked.api == format_:
        if value.get("error") is not None or value.get("type") == "error":
            raise Untranslatable(stream_error(value))
        return value
    if asked.api == "openai":
        return to_chat_response(value, model=asked.model, created=int(time.time()))
    if not asked.wants_thinking:
        value = _unthought(value, "message")
    return to_anthropic(value, model=asked.model, stop_sequences=asked.stop_sequences)


def _decoded(body: bytes) -> Json:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise broken("is no JSON object") from None


# -- streams ------------------------------------------------------------------------------------


def _translator(asked: Asked, format_: Format) -> Translator:
    if asked.api == format_:
        return _Same(asked)
    if asked.api == "anthropic":
        return ChatToAnthropicStream(model=asked.model, stop_sequences=asked.stop_sequences)
    return AnthropicToChatStream(
        model=asked.model, created=int(time.time()), include_usage=asked.include_usage
    )


def _filter(asked: Asked, format_: Format) -> Callable[[Json], Json]:
    """Clients that did not ask for thinking read the first content as the answer."""
    if asked.api == "anthropic" and format_ == "openai" and not asked.wants_thinking:
        return lambda chunk: _unthought(chunk, "delta")
    return lambda chunk: chunk


def _unthought(value: Json, part: str) -> Json:
    choices = value.get("choices")
    if not isinstance(choices, list):
        return value
    hidden = ("reasoning_content", "reasoning")
    new = []
    for choice in choices:
        said = choice.get(part) if isinstance(choice, dict) else None
        if isinstance(said, dict) and any(name in said for name in hidden):
            said = {k: v for k, v in said.items() if k not in hidden}
            new.append({**choice, part: said})
        else:
            new.append(choice)
    return {**value, "choices": new}


class _Tapped:
    """Shows every event to the watch before the translator gets it."""

    def __init__(self, inner: Translator, watch: Watch, keep: Callable[[Json], Json]) -> None:
        self._inner = inner
        self._watch = watch
        self._keep = keep

    @property
    def failure(self) -> GatewayFailure | None:
        return self._inner.failure

    def feed(self, chunk: Json, /) -> list[Json]:
        self._watch.event(chunk)
        return self._inner.feed(self._keep(chunk))

    def end(self) -> list[Json]:
        return self._inner.end()

    def fail(self, failure: GatewayFailure) -> list[Json]:
        return self._inner.fail(failure)


class _Same:
    """Both sides speak the same: events pass, and an answer without its end is an error."""

    def __init__(self, asked: Asked) -> None:
        self.failure: GatewayFailure | None = None
        self._asked = asked
        self._ended = False

    def feed(self, chunk: Json, /) -> list[Json]:
        if self.failure is not None:
            return []
        if chunk.get("error") is not None:
            return self.fail(stream_error(chunk))
        if self._asked.api == "anthropic":
            if not isinstance(chunk.get("type"), str):
                return self.fail(broken("has an event without a type").failure)
            self._ended = self._ended or chunk["type"] == "message_stop"
            return [chunk]
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("finish_reason"):
                self._ended = True
        if not choices and not self._asked.include_usage:
            return []  # usage that we asked for ourselves
        return [chunk]

    def end(self) -> list[Json]:
        if self.failure is not None or self._ended:
            return []
        return self.fail(truncated())

    def fail(self, failure: GatewayFailure) -> list[Json]:
        self.failure = failure
        return [openai_body(failure) if self._asked.api == "openai" else anthropic_body(failure)]
