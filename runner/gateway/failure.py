"""A call that failed: what it means, and what is tried next. Pure, and by tables.

Meaning comes from the structured status, the type that the provider gave, and (only where two
meanings share both) words of the message; never from digits found in text. The tables follow
https://platform.moonshot.ai/docs/api/chat#error-codes,
https://platform.openai.com/docs/guides/error-codes and https://docs.anthropic.com/en/api/errors

Read in this order: the words of one status, statuses that decide alone, types, statuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum

from runner.settings.vendors import Kind

MAX_RETRY_AFTER = 86_400.0

# Types of failures that never reached a provider's words; statuses are those a proxy would give.
UNREACHABLE_TYPE = "provider_unavailable"
TIMEOUT_TYPE = "provider_timeout"
BROKEN_TYPE = "stream_cut"
LOGIN_TYPE = "login_required"


@dataclass(frozen=True, slots=True)
class GatewayFailure:
    """``status`` is HTTP's, ``type`` the provider's or ours, ``retry_after`` in seconds."""

    status: int
    type: str
    message: str
    retry_after: float | None = None


class Next(StrEnum):
    """Who is asked next. Each falls through to the one below it when there is nobody."""

    RETRY_SAME = "retry_same"
    NEXT_CREDENTIAL = "next_credential"
    NEXT_MODEL = "next_model"
    GIVE_UP = "give_up"


class Scope(StrEnum):
    """What rests: everything at the endpoint, one credential there, or one model of it."""

    ENDPOINT = "endpoint"
    CREDENTIAL = "credential"
    MODEL = "model"


class Reason(StrEnum):
    AUTH = "auth"
    MEMBERSHIP = "membership"
    CLIENT_REFUSED = "client_refused"
    USAGE_LIMIT = "usage_limit"
    FORBIDDEN = "forbidden"
    QUOTA = "quota"
    MODEL_GONE = "model_gone"
    RATE_LIMIT = "rate_limit"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    BROKEN = "broken"
    WRONG_ENDPOINT = "wrong_endpoint"
    CONTEXT_LENGTH = "context_length"
    CONTENT = "content"
    BAD_REQUEST = "bad_request"


PASSING = frozenset(
    {
        Reason.RATE_LIMIT,
        Reason.OVERLOADED,
        Reason.SERVER_ERROR,
        Reason.TIMEOUT,
        Reason.UNREACHABLE,
        Reason.BROKEN,
    }
)
"""Failures that end by themselves: the same call may work a little later."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about a failure.

    ``cooldown`` is seconds; ``None`` is the entry's own. ``retry_after`` is the provider's wish,
    which wins over it. Without a ``scope`` nothing rests.
    """

    reason: Reason
    next: Next
    scope: Scope | None = None
    cooldown: float | None = None
    retry_after: float | None = None


_LONG = 600.0  # until a person did something, or the provider's list of models changed
_BILLING = 3600.0

OUTCOMES: Mapping[Reason, tuple[Next, Scope | None, float | None]] = {
    Reason.AUTH: (Next.NEXT_CREDENTIAL, Scope.CREDENTIAL, _LONG),
    Reason.MEMBERSHIP: (Next.NEXT_CREDENTIAL, Scope.CREDENTIAL, _BILLING),
    Reason.CLIENT_REFUSED: (Next.NEXT_CREDENTIAL, Scope.CREDENTIAL, _LONG),
    Reason.USAGE_LIMIT: (Next.NEXT_CREDENTIAL, Scope.CREDENTIAL, _BILLING),
    Reason.QUOTA: (Next.NEXT_CREDENTIAL, Scope.CREDENTIAL, _BILLING),
    Reason.FORBIDDEN: (Next.NEXT_CREDENTIAL, Scope.MODEL, _LONG),
    Reason.MODEL_GONE: (Next.NEXT_MODEL, Scope.MODEL, _LONG),
    Reason.RATE_LIMIT: (Next.NEXT_CREDENTIAL, Scope.MODEL, None),
    Reason.OVERLOADED: (Next.RETRY_SAME, Scope.MODEL, None),
    Reason.SERVER_ERROR: (Next.RETRY_SAME, Scope.MODEL, None),
    # It has waited long enough for this one; the next may be quicker.
    Reason.TIMEOUT: (Next.NEXT_CREDENTIAL, Scope.MODEL, None),
    Reason.UNREACHABLE: (Next.RETRY_SAME, Scope.ENDPOINT, None),
    Reason.BROKEN: (Next.RETRY_SAME, Scope.MODEL, None),
    Reason.WRONG_ENDPOINT: (Next.NEXT_MODEL, Scope.MODEL, _LONG),
    # The request's own fault: it fails everywhere, and nobody rests for it.
    Reason.CONTEXT_LENGTH: (Next.GIVE_UP, None, None),
    Reason.CONTENT: (Next.GIVE_UP, None, None),
    Reason.BAD_REQUEST: (Next.GIVE_UP, None, None),
}


@dataclass(frozen=True, slots=True)
class _Words:
    """Lower-case words of a message; ``kinds`` says whose they are, empty for everybody's."""

    status: int
    words: str
    reason: Reason
    kinds: tuple[Kind, ...] = ()


WORDS = (
    _Words(403, "usage limit", Reason.USAGE_LIMIT, ("kimi",)),
    _Words(400, "token limit", Reason.CONTEXT_LENGTH, ("kimi",)),
    _Words(400, "context length", Reason.CONTEXT_LENGTH),
    _Words(400, "prompt is too long", Reason.CONTEXT_LENGTH),
    _Words(400, "credit balance is too low", Reason.QUOTA, ("anthropic",)),
    _Words(429, "exceeded your current quota", Reason.QUOTA, ("kimi", "openai")),
    _Words(429, "overloaded", Reason.OVERLOADED, ("kimi",)),
)

# These say all there is, whatever the type: some APIs call a wrong key an invalid request.
DECISIVE: Mapping[int, Reason] = {401: Reason.AUTH, 402: Reason.MEMBERSHIP}

TYPES: Mapping[str, Reason] = {
    "invalid_authentication_error": Reason.AUTH,
    "incorrect_api_key_error": Reason.AUTH,
    "authentication_error": Reason.AUTH,
    "invalid_api_key": Reason.AUTH,
    LOGIN_TYPE: Reason.AUTH,
    "access_terminated_error": Reason.CLIENT_REFUSED,
    "permission_denied_error": Reason.FORBIDDEN,
    "permission_error": Reason.FORBIDDEN,
    "exceeded_current_quota_error": Reason.QUOTA,
    "insufficient_quota": Reason.QUOTA,
    "billing_error": Reason.QUOTA,
    "resource_not_found_error": Reason.MODEL_GONE,
    "not_found_error": Reason.MODEL_GONE,
    "model_not_found": Reason.MODEL_GONE,
    "rate_limit_reached_error": Reason.RATE_LIMIT,
    "rate_limit_error": Reason.RATE_LIMIT,
    "rate_limit_exceeded": Reason.RATE_LIMIT,
    "engine_overloaded_error": Reason.OVERLOADED,
    "overloaded_error": Reason.OVERLOADED,
    "server_error": Reason.SERVER_ERROR,
    "internal_server_error": Reason.SERVER_ERROR,
    "api_error": Reason.SERVER_ERROR,
    "timeout_error": Reason.TIMEOUT,
    TIMEOUT_TYPE: Reason.TIMEOUT,
    UNREACHABLE_TYPE: Reason.UNREACHABLE,
    BROKEN_TYPE: Reason.BROKEN,
    "stream_truncated": Reason.BROKEN,
    "context_length_exceeded": Reason.CONTEXT_LENGTH,
    "request_too_large": Reason.CONTEXT_LENGTH,
    "content_filter": Reason.CONTENT,
    "invalid_request_error": Reason.BAD_REQUEST,
}

STATUSES: Mapping[int, Reason] = {
    403: Reason.FORBIDDEN,
    404: Reason.MODEL_GONE,
    405: Reason.WRONG_ENDPOINT,
    408: Reason.TIMEOUT,
    429: Reason.RATE_LIMIT,
    503: Reason.OVERLOADED,
    504: Reason.TIMEOUT,
    524: Reason.TIMEOUT,
    529: Reason.OVERLOADED,
}

# A general type says less than one of these statuses.
_GENERAL = frozenset({"invalid_request_error", "api_error", "server_error"})


def classify(
    status: int,
    type: str,  # noqa: A002 - the field's name
    message: str,
    headers: Mapping[str, str],
    provider_kind: Kind,
) -> Verdict:
    """What a failure means. ``headers`` have lower-case names; an error inside a stream has 200."""
    reason = _reason(status, type, message.lower(), provider_kind)
    following, scope, cooldown = OUTCOMES[reason]
    wish = retry_after(headers) if scope is not None else None
    return Verdict(reason, following, scope, cooldown, wish)


def _reason(status: int, kind: str, message: str, provider_kind: Kind) -> Reason:
    for rule in WORDS:
        if (
            rule.status == status
            and rule.words in message
            and provider_kind in (rule.kinds or (provider_kind,))
        ):
            return rule.reason
    if status in DECISIVE:
        return DECISIVE[status]
    if kind in TYPES and not (kind in _GENERAL and status in STATUSES):
        return TYPES[kind]
    if status in STATUSES:
        return STATUSES[status]
    if 300 <= status < 400:
        return Reason.WRONG_ENDPOINT
    return Reason.BAD_REQUEST if 400 <= status < 500 else Reason.SERVER_ERROR


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait, at most a day; ``None`` when it names none.

    A date counts from the ``date`` of the same answer, so that nobody's clock matters (RFC 9110,
    section 10.2.3); ``retry-after-ms`` is OpenAI's.
    """
    exact = _seconds(headers.get("retry-after-ms", ""))
    if exact is not None:
        return exact / 1000
    wish = headers.get("retry-after", "").strip()
    if (seconds := _seconds(wish)) is not None:
        return seconds
    try:
        until = parsedate_to_datetime(wish)
        sent = parsedate_to_datetime(headers.get("date", ""))
        return min(max((until - sent).total_seconds(), 0.0), MAX_RETRY_AFTER)
    except (ValueError, TypeError, OverflowError):
        return None


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(seconds, MAX_RETRY_AFTER)
