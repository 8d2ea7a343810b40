"""What a refusal of the model means, and when to try again. Pure.

Classes come from status, ``error.type``, ``error.code`` and the message's words, never from digits
found in text. Error shapes: https://platform.moonshot.ai/docs/api/chat#error-codes
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from runner.errors import NanokimiError

MAX_WAIT = 60.0
FIRST_WAIT = 0.5

# Failures that the conversation itself causes: the turn leaves the context, or all later ones fail.
POISON = frozenset({"bad_request", "context_too_long"})

HINTS = {
    "login_required": "log in again with `nanokimi login` on the host",
    "membership": "the account's membership does not cover this model: renew or change it",
    "client_refused": "the provider serves only known clients: set custom_headers User-Agent",
    "rate_limited": "wait a little, then send the message again",
    "quota_exceeded": "the account's quota is used up: top it up, or wait for the next cycle",
    "provider_unavailable": "the provider is down or cannot be reached: try again later",
    "provider_timeout": "the provider did not answer in time: try again later",
    "stream_cut": "the answer broke off: send the message again",
    "model_not_found": "choose a model that the provider offers in default_model",
    "context_too_long": "send a shorter message, or raise max_context_size if the model allows it",
    "bad_request": "the provider refused the request as it is; the message was left out",
}


class ModelFailure(NanokimiError):
    """The model gave no answer.

    Args:
        retryable: the same request may work later.
        retry_after: seconds the provider asked to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        hint: str = "",
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint or HINTS.get(code, ""), code=code)
        self.retryable = retryable
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after ``wait`` seconds."""

    wait: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    pass


def decide_retry(
    failure: ModelFailure, attempt: int, max_retries: int, *, jitter: float
) -> Retry | GiveUp:
    """Whether the request goes out again after ``attempt`` (from 0) failed.

    The wait doubles from half a second, spread by ``jitter`` (0 to 1); a wish of the provider comes
    first. A wish of more than ``MAX_WAIT`` is passed on to the client instead of waited out.
    """
    if not failure.retryable or attempt >= max_retries:
        return GiveUp()
    if failure.retry_after is not None:
        if failure.retry_after > MAX_WAIT:
            return GiveUp()
        return Retry(failure.retry_after)
    return Retry(min(MAX_WAIT, FIRST_WAIT * 2**attempt * (0.75 + jitter / 2)))


class _Error(msgspec.Struct):
    message: str = ""
    type: str | None = None
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error | str | None = None
    message: str | None = None


def classify_error(
    status: int | None, body: bytes, retry_after: float | None = None
) -> ModelFailure:
    """An error answer (``status`` is ``None`` inside a stream) as a :class:`ModelFailure`."""
    kind, said = _read(body)
    words = f"{kind} {said}".lower()
    code, retryable = _code(status, kind, words)
    what = f"HTTP {status}" if status is not None else "an error in the stream"
    return ModelFailure(
        f"the provider answered with {what}: {said[:500] or kind or 'no reason given'}",
        code=code,
        retryable=retryable,
        retry_after=retry_after,
    )


def _code(status: int | None, kind: str, words: str) -> tuple[str, bool]:
    if "exceeded_current_quota" in words or "usage limit" in words:
        return "quota_exceeded", False
    if _is_too_long(status, words):
        return "context_too_long", False
    if status == 402:
        return "membership", False
    if status == 401 or kind in ("invalid_authentication_error", "incorrect_api_key_error"):
        return "login_required", False
    if status == 403:
        client = "client" in words or "user-agent" in words or "coding agent" in words
        return ("client_refused" if client else "login_required"), False
    if status == 404 or kind == "resource_not_found_error":
        return "model_not_found", False
    if status == 429 or kind in ("rate_limit_reached_error", "engine_overloaded_error"):
        return "rate_limited", True
    if status in (408, 504):
        return "provider_timeout", True
    if status is None:
        known_bad = kind == "invalid_request_error"
        return ("bad_request", False) if known_bad else ("stream_cut", True)
    if status >= 500 or status < 400:
        return "provider_unavailable", status >= 500
    return "bad_request", False


def _is_too_long(status: int | None, words: str) -> bool:
    if status == 413 or "context_length_exceeded" in words:
        return True
    return status in (None, 400) and (
        "token limit" in words or "context length" in words or "maximum context" in words
    )


def _read(body: bytes) -> tuple[str, str]:
    try:
        got = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "", body[:500].decode("utf-8", "replace").strip()
    if isinstance(got.error, _Error):
        return got.error.type or str(got.error.code or ""), got.error.message
    return "", got.error or got.message or ""


def parse_retry_after(value: str | None, *, now: float | None = None) -> float | None:
    """``Retry-After`` in seconds from ``now``: a number or an HTTP date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        from email.utils import parsedate_to_datetime  # rare, and dear at start-up

        try:
            seconds = parsedate_to_datetime(value).timestamp() - (
                time.time() if now is None else now
            )
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds < 1e9 else None
