"""Failures in the words of either API, and a provider's words read back. Pure.

https://platform.openai.com/docs/guides/error-codes and https://docs.anthropic.com/en/api/errors
"""

from __future__ import annotations

from typing import Any

import msgspec

from runner.errors import PermanentError
from runner.gateway.failure import GatewayFailure
from runner.gateway.formats import Json

INVALID = "invalid_request_error"
TRUNCATED = "stream_truncated"
MAX_MESSAGE = 2000

# Status to type, where the failure itself has no type that the called API knows.
_OPENAI_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_ANTHROPIC_TYPES = _OPENAI_TYPES | {409: "conflict_error", 413: "request_too_large"}
_OPENAI_CODES = {401: "invalid_api_key", 404: "model_not_found"}
_KNOWN_TO_ANTHROPIC = frozenset({*_ANTHROPIC_TYPES.values(), INVALID, "api_error"})
# Types of other APIs, in Anthropic's words, where the status alone would say less.
_AS_ANTHROPIC = {
    "engine_overloaded_error": "overloaded_error",
    "exceeded_current_quota_error": "billing_error",
    "insufficient_quota": "billing_error",
}
# The status a type would have had, for errors that come inside a stream.
_STATUS_OF = {
    INVALID: 400,
    "authentication_error": 401,
    "invalid_authentication_error": 401,
    "incorrect_api_key_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "resource_not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_reached_error": 429,
    "engine_overloaded_error": 429,
    "exceeded_current_quota_error": 429,
    "insufficient_quota": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_TOO_LONG = ("token limit", "context length", "maximum context", "context_length_exceeded")
_PROMPT_TOO_LONG = "prompt is too long"


class Untranslatable(PermanentError):
    """What came cannot be said in the other format; ``failure`` is the answer to the client."""

    def __init__(self, failure: GatewayFailure) -> None:
        super().__init__(failure.message, code=failure.type)
        self.failure = failure


def truncated() -> GatewayFailure:
    """A stream that ended before the model said why it stopped: never an answer."""
    return GatewayFailure(502, TRUNCATED, "the provider's answer was cut off before its end")


def broken(problem: str) -> Untranslatable:
    """A provider's answer that is none."""
    return Untranslatable(GatewayFailure(502, "api_error", f"the provider's answer {problem}"))


def is_too_long(failure: GatewayFailure) -> bool:
    """The conversation does not fit into the model's context."""
    words = f"{failure.type} {failure.message}".lower()
    return failure.status in (400, 413) and (
        _PROMPT_TOO_LONG in words or any(w in words for w in _TOO_LONG)
    )


def openai_body(failure: GatewayFailure) -> Json:
    """``{"error": {message, type, param, code}}``; a provider's own type stays."""
    code = "context_length_exceeded" if is_too_long(failure) else _OPENAI_CODES.get(failure.status)
    return {
        "error": {
            "message": failure.message,
            "type": failure.type or _type_of(failure.status, _OPENAI_TYPES),
            "param": None,
            "code": code,
        }
    }


def anthropic_body(failure: GatewayFailure) -> Json:
    """``{"type": "error", "error": {type, message}}``, which is also the stream's error event.

    Clients compact a conversation when they read "prompt is too long", so an overflow says so.
    """
    kind = _AS_ANTHROPIC.get(failure.type, failure.type)
    if kind not in _KNOWN_TO_ANTHROPIC:
        kind = _type_of(failure.status, _ANTHROPIC_TYPES)
    message = failure.message
    if is_too_long(failure) and _PROMPT_TOO_LONG not in message.lower():
        message = f"{_PROMPT_TOO_LONG}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}}


def read_error(status: int, body: bytes, retry_after: float | None = None) -> GatewayFailure:
    """A provider's error answer of either shape, or of none (a proxy's page, plain text)."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        value = body[: MAX_MESSAGE * 4].decode("utf-8", "replace").strip()
    kind, message = _said(value)
    return GatewayFailure(
        status,
        kind or _type_of(status, _OPENAI_TYPES),
        message[:MAX_MESSAGE] or f"the provider answered with HTTP {status}",
        retry_after,
    )


def stream_error(value: object) -> GatewayFailure:
    """An error that came as an event of a stream; its status follows from its type."""
    kind, message = _said(value)
    return GatewayFailure(
        _STATUS_OF.get(kind, 502),
        kind or "api_error",
        message[:MAX_MESSAGE] or "the provider reported an error in its stream",
    )


def _type_of(status: int, table: dict[int, str]) -> str:
    return table.get(status) or (INVALID if 400 <= status < 500 else "api_error")


def _said(value: Any) -> tuple[str, str]:
    """Type and message of an error body."""
    match value:
        case {"error": dict() as error}:
            kind = error.get("type") or error.get("code")
            message = error.get("message")
            return (
                kind if isinstance(kind, str) else "",
                message if isinstance(message, str) else "",
            )
        case {"error": str() as message} | {"message": str() as message}:
            return "", message
        case {"detail": str() as message} | (str() as message):
            return "", message
    return "", ""
