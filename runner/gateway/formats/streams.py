"""A provider's stream of bytes as the stream of the other API. No I/O.

The two translators know chunks and events; here they get the bytes around them: server-sent
events, JSON, ``[DONE]``, and what to do when any of it is broken.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from runner.errors import ProtocolError
from runner.gateway.failure import GatewayFailure
from runner.gateway.formats import Json
from runner.gateway.formats.errors import broken
from runner.wire import sse

DONE = b"[DONE]"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Translator(Protocol):
    """:class:`ChatToAnthropicStream` or :class:`AnthropicToChatStream`."""

    @property
    def failure(self) -> GatewayFailure | None: ...
    def feed(self, chunk: Json, /) -> list[Json]: ...
    def end(self) -> list[Json]: ...
    def fail(self, failure: GatewayFailure) -> list[Json]: ...


class ByteStream:
    """Bytes of a provider's answer in, bytes for the client out.

    Feed it what is read, then call :meth:`end` once, or :meth:`fail` when the connection broke.
    ``[DONE]`` ends it too; what comes after is ignored. :attr:`failure` says whether the answer
    was whole: the client has then been told in its own API's words.

    Args:
        translator: decides what is said.
        to_anthropic: the client speaks Anthropic: events have names, and no ``[DONE]`` ends them.
        limit: bytes of one event.
    """

    def __init__(
        self, translator: Translator, *, to_anthropic: bool, limit: int = sse.MAX_EVENT
    ) -> None:
        self._translator = translator
        self._to_anthropic = to_anthropic
        self._reader = sse.EventReader(limit)
        self._over = False

    @property
    def failure(self) -> GatewayFailure | None:
        return self._translator.failure

    def feed(self, data: bytes) -> bytes:
        if self._over:
            return b""
        try:
            events = self._reader.feed(data)
        except ProtocolError as e:
            return self.fail(broken(f"has {e.message}").failure)
        out = bytearray()
        for event in events:
            if event.data.strip() == DONE:
                out += self.end()
            elif not self._over:
                out += self._translate(event.data)
        return bytes(out)

    def end(self) -> bytes:
        if self._over:
            return b""
        self._over = True
        last = self._written(self._translator.end())
        if self._to_anthropic or self.failure is not None:
            return last
        return last + sse.encode(DONE)

    def fail(self, failure: GatewayFailure) -> bytes:
        if self._over:
            return b""
        self._over = True
        return self._written(self._translator.fail(failure))

    def _translate(self, data: bytes) -> bytes:
        try:
            value = _decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            value = None
        if not isinstance(value, dict):
            return self.fail(broken("has an event that is no JSON object").failure)
        out = self._written(self._translator.feed(value))
        self._over = self.failure is not None
        return out

    def _written(self, messages: list[Json]) -> bytes:
        if self._to_anthropic:
            return b"".join(sse.encode(_encode(m), event=m["type"]) for m in messages)
        return b"".join(sse.encode(_encode(m)) for m in messages)
