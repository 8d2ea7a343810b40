"""The beginning of a provider's answer: is it one, or an error in an answer's clothes?"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import httpx
import msgspec

from runner.errors import LoginRequiredError, NanokimiError, TemporaryError
from runner.gateway.failure import (
    BROKEN_TYPE,
    LOGIN_TYPE,
    TIMEOUT_TYPE,
    UNREACHABLE_TYPE,
    GatewayFailure,
    retry_after,
)
from runner.gateway.formats.errors import read_error, stream_error

MAX_ERROR = 64 * 1024
MAX_PREAMBLE = 64 * 1024
_ERROR = b'{"error"'


@dataclass(slots=True)
class Answer:
    """A provider's answer whose head is there. ``headers`` have lower-case names.

    ``close`` ends it, read or not; more than once is fine.
    """

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes] = field(repr=False)
    close: Callable[[], Awaitable[None]] = field(repr=False)


class AnswerFailed(Exception):
    """The answer is an error, or ended before it began."""

    def __init__(self, failure: GatewayFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


async def first_bytes(answer: Answer) -> bytes:
    """The first bytes of a good answer. Comments that keep a stream alive are no beginning.

    Raises:
        AnswerFailed: an error status, an error as the first event or as the whole body, or no
            byte at all.
    """
    if answer.status >= 300 or answer.status < 200:
        body = await _read_some(answer.body)
        raise AnswerFailed(read_error(answer.status, body, retry_after(answer.headers)))
    events = answer.headers.get("content-type", "").startswith("text/event-stream")
    first = b""
    async for chunk in answer.body:
        first += chunk
        if has_begun(first, events=events):
            break
    if not first.strip():
        text = "the answer ended before its first byte"
        raise AnswerFailed(GatewayFailure(502, BROKEN_TYPE, text))
    failure = error_at_start(first, events=events)
    if failure is not None:
        raise AnswerFailed(failure)
    if events and not has_begun(first, events=events):
        text = "the answer ended before its first event"
        raise AnswerFailed(GatewayFailure(502, BROKEN_TYPE, text))
    return first


def has_begun(first: bytes, *, events: bool) -> bool:
    """Whether an answer is under way: a whole line of data, or JSON that is no error's."""
    if len(first) > MAX_PREAMBLE:
        return True
    if events:
        lines = first.splitlines(keepends=True)
        return any(line.startswith(b"data:") and line.endswith((b"\n", b"\r")) for line in lines)
    start = first.lstrip()[: len(_ERROR)]
    return bool(start) and not _ERROR.startswith(start)


def error_at_start(first: bytes, *, events: bool) -> GatewayFailure | None:
    """The error that an answer begins with, if it does and is there as a whole."""
    text = first
    if events:
        lines = [line for line in first.splitlines() if line.startswith(b"data:")]
        text = lines[0][5:] if lines else b""
    if b'"error"' not in text:
        return None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if not isinstance(value, dict) or not value.get("error"):
        return None
    return stream_error(value)


def transport_failure(error: Exception, provider: str) -> GatewayFailure | None:
    """What went wrong on the way; ``None`` for a mistake of ours, which is no provider's fault."""
    said = f"{type(error).__name__} {error}".strip()
    match error:
        case LoginRequiredError():
            return GatewayFailure(401, LOGIN_TYPE, f"{error.message}. {error.hint}".strip())
        case TemporaryError():
            return GatewayFailure(503, error.code, error.message, error.retry_after)
        case NanokimiError():
            return GatewayFailure(401, error.code, f"{error.message}. {error.hint}".strip())
        case httpx.ConnectTimeout() | httpx.ConnectError() | httpx.ProxyError() | ssl.SSLError():
            text = f"{provider} cannot be reached: {said}"
            return GatewayFailure(502, UNREACHABLE_TYPE, text)
        case httpx.TimeoutException():
            return GatewayFailure(504, TIMEOUT_TYPE, f"{provider} did not answer: {said}")
        case ConnectionRefusedError():
            return GatewayFailure(502, UNREACHABLE_TYPE, f"{provider} cannot be reached: {said}")
        case httpx.TransportError() | OSError() | EOFError():
            text = f"{provider} broke the connection before it answered: {said}"
            return GatewayFailure(502, BROKEN_TYPE, text)
    return None


async def _read_some(body: AsyncIterator[bytes]) -> bytes:
    """What an error answer says, as far as it comes."""
    read = b""
    try:
        async for chunk in body:
            read += chunk
            if len(read) >= MAX_ERROR:
                break
    except (httpx.HTTPError, OSError):
        return read  # its status says the most of it
    return read[:MAX_ERROR]
