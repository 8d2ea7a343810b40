"""Every row of the classification, and what must never decide."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.demo import rules as demo
from runner.gateway.failure import (
    DECISIVE,
    OUTCOMES,
    PASSING,
    STATUSES,
    TYPES,
    WORDS,
    Next,
    Reason,
    Scope,
    classify,
    retry_after,
)
from runner.settings.vendors import Kind

ROWS: list[tuple[int, str, str, Kind, Reason]] = [
    # Kimi
    (401, "invalid_authentication_error", "Invalid Authentication", "kimi", Reason.AUTH),
    (401, "incorrect_api_key_error", "Incorrect API key provided", "kimi", Reason.AUTH),
    (402, "billing_error", "membership has ended", "kimi", Reason.MEMBERSHIP),
    (403, "access_terminated_error", "only available for Coding Agents", "kimi",
     Reason.CLIENT_REFUSED),
    (403, "access_terminated_error", "You've reached your usage limit for this billing cycle",
     "kimi", Reason.USAGE_LIMIT),
    (403, "permission_denied_error", "no", "kimi", Reason.FORBIDDEN),
    (404, "resource_not_found_error", "Not found the model x or Permission denied", "kimi",
     Reason.MODEL_GONE),
    (429, "engine_overloaded_error", "The engine is currently overloaded", "kimi",
     Reason.OVERLOADED),
    (429, "rate_limit_reached_error", "request reached max RPM: 3", "kimi", Reason.RATE_LIMIT),
    (429, "exceeded_current_quota_error", "check your account balance", "kimi", Reason.QUOTA),
    (400, "invalid_request_error", "Your request exceeded model token limit: 262144", "kimi",
     Reason.CONTEXT_LENGTH),
    (400, "invalid_request_error",
     "thinking is enabled but reasoning_content is missing ... at index 500", "kimi",
     Reason.BAD_REQUEST),
    (400, "content_filter", "high risk", "kimi", Reason.CONTENT),
    (500, "server_error", "oops", "kimi", Reason.SERVER_ERROR),
    # OpenAI and its likes
    (401, "invalid_request_error", "Incorrect API key provided", "openai", Reason.AUTH),
    (402, "unknown_error", "Insufficient Balance", "openai", Reason.MEMBERSHIP),
    (404, "invalid_request_error", "The model does not exist", "openai", Reason.MODEL_GONE),
    (429, "insufficient_quota", "You exceeded your current quota", "openai", Reason.QUOTA),
    (429, "requests", "Rate limit reached for gpt-4o", "openai", Reason.RATE_LIMIT),
    (429, "invalid_request_error", "slow down", "openai", Reason.RATE_LIMIT),
    (400, "invalid_request_error", "This model's maximum context length is 8192", "openai",
     Reason.CONTEXT_LENGTH),
    (503, "server_error", "overloaded", "openai", Reason.OVERLOADED),
    # Anthropic
    (401, "authentication_error", "invalid x-api-key", "anthropic", Reason.AUTH),
    (403, "permission_error", "no access", "anthropic", Reason.FORBIDDEN),
    (404, "not_found_error", "model: x", "anthropic", Reason.MODEL_GONE),
    (413, "request_too_large", "too large", "anthropic", Reason.CONTEXT_LENGTH),
    (429, "rate_limit_error", "slow", "anthropic", Reason.RATE_LIMIT),
    (400, "invalid_request_error", "Your credit balance is too low", "anthropic", Reason.QUOTA),
    (400, "invalid_request_error", "prompt is too long: 210000 tokens", "anthropic",
     Reason.CONTEXT_LENGTH),
    (500, "api_error", "Internal server error", "anthropic", Reason.SERVER_ERROR),
    (529, "overloaded_error", "Overloaded", "anthropic", Reason.OVERLOADED),
    (200, "overloaded_error", "an event in the stream", "anthropic", Reason.OVERLOADED),
    # The way there
    (502, "provider_unavailable", "ConnectError", "kimi", Reason.UNREACHABLE),
    (504, "provider_timeout", "ReadTimeout", "kimi", Reason.TIMEOUT),
    (502, "stream_cut", "RemoteProtocolError", "kimi", Reason.BROKEN),
    (302, "", "moved", "openai", Reason.WRONG_ENDPOINT),
    (405, "", "method not allowed", "openai", Reason.WRONG_ENDPOINT),
    (408, "", "", "openai", Reason.TIMEOUT),
    (504, "", "<html>", "openai", Reason.TIMEOUT),
    (502, "", "<html>", "openai", Reason.SERVER_ERROR),
    (422, "", "unprocessable", "openai", Reason.BAD_REQUEST),
    (418, "", "teapot", "openai", Reason.BAD_REQUEST),
]  # fmt: skip


@pytest.mark.parametrize(("status", "kind", "message", "provider", "reason"), ROWS)
def test_a_failure_is_known_by_status_type_and_message(
    status: int, kind: str, message: str, provider: Kind, reason: Reason
) -> None:
    verdict = classify(status, kind, message, {}, provider)
    assert verdict.reason is reason
    assert (verdict.next, verdict.scope, verdict.cooldown) == OUTCOMES[reason]


def test_every_reason_has_an_outcome_and_a_way_to_it() -> None:
    ways = {*TYPES.values(), *STATUSES.values(), *DECISIVE.values(), *(w.reason for w in WORDS)}
    assert set(OUTCOMES) == set(Reason) == ways | {Reason.WRONG_ENDPOINT}


@pytest.mark.parametrize(
    ("reason", "following", "scope", "seconds"),
    [
        (Reason.AUTH, Next.NEXT_CREDENTIAL, Scope.CREDENTIAL, 600.0),
        (Reason.MEMBERSHIP, Next.NEXT_CREDENTIAL, Scope.CREDENTIAL, 3600.0),
        (Reason.CLIENT_REFUSED, Next.NEXT_CREDENTIAL, Scope.CREDENTIAL, 600.0),
        (Reason.USAGE_LIMIT, Next.NEXT_CREDENTIAL, Scope.CREDENTIAL, 3600.0),
        (Reason.FORBIDDEN, Next.NEXT_CREDENTIAL, Scope.MODEL, 600.0),
        (Reason.QUOTA, Next.NEXT_CREDENTIAL, Scope.CREDENTIAL, 3600.0),
        (Reason.MODEL_GONE, Next.NEXT_MODEL, Scope.MODEL, 600.0),
        (Reason.RATE_LIMIT, Next.NEXT_CREDENTIAL, Scope.MODEL, None),
        (Reason.OVERLOADED, Next.RETRY_SAME, Scope.MODEL, None),
        (Reason.SERVER_ERROR, Next.RETRY_SAME, Scope.MODEL, None),
        (Reason.TIMEOUT, Next.NEXT_CREDENTIAL, Scope.MODEL, None),
        (Reason.UNREACHABLE, Next.RETRY_SAME, Scope.ENDPOINT, None),
        (Reason.BROKEN, Next.RETRY_SAME, Scope.MODEL, None),
        (Reason.WRONG_ENDPOINT, Next.NEXT_MODEL, Scope.MODEL, 600.0),
        (Reason.CONTEXT_LENGTH, Next.GIVE_UP, None, None),
        (Reason.CONTENT, Next.GIVE_UP, None, None),
        (Reason.BAD_REQUEST, Next.GIVE_UP, None, None),
    ],
)
def test_each_reason_means_what_operators_are_told(
    reason: Reason, following: Next, scope: Scope | None, seconds: float | None
) -> None:
    assert OUTCOMES[reason] == (following, scope, seconds)


def test_the_documentation_has_this_table() -> None:
    text = (Path(__file__).parents[4] / "docs" / "routing.md").read_text("utf-8")
    told = {}
    for line in text.splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if cells[0] in list(Reason):
            told[cells[0]] = tuple(cells[2:])
    for reason, (following, scope, seconds) in OUTCOMES.items():
        rests = f"{seconds / 60:.0f} min" if seconds else "cooldown" if scope else ""
        assert told[reason] == (following, scope or "nobody", rests), reason


def test_a_quota_rests_long_and_a_rate_limit_does_not() -> None:
    quota = classify(429, "exceeded_current_quota_error", "", {}, "kimi")
    rate = classify(429, "rate_limit_reached_error", "", {}, "kimi")
    assert (quota.cooldown, quota.scope) == (3600.0, Scope.CREDENTIAL)
    assert (rate.cooldown, rate.scope) == (None, Scope.MODEL)
    assert Reason.QUOTA not in PASSING
    assert Reason.RATE_LIMIT in PASSING


def test_the_errors_of_the_demo_provider_are_known() -> None:
    refused = demo.check_client("curl/8")
    unknown = demo.find_model({}, "gone")
    assert refused is not None
    assert isinstance(unknown, demo.ApiError)
    for error, reason in ((refused, Reason.CLIENT_REFUSED), (unknown, Reason.MODEL_GONE)):
        assert classify(error.status, error.type, error.message, {}, "kimi").reason is reason


@given(st.integers(100, 599), st.sampled_from(["", "api_error", "x"]), st.integers(100, 599))
def test_digits_in_a_message_decide_nothing(status: int, kind: str, digits: int) -> None:
    plain = classify(status, kind, "it failed", {}, "kimi")
    assert classify(status, kind, f"it failed with error code {digits}", {}, "kimi") == plain


@given(
    st.integers(0, 999),
    st.text(max_size=30),
    st.text(max_size=60),
    st.dictionaries(st.sampled_from(["retry-after", "date", "retry-after-ms"]), st.text()),
    st.sampled_from(["kimi", "openai", "anthropic"]),
)
def test_nothing_a_provider_says_breaks_it(
    status: int, kind: str, message: str, headers: dict[str, str], provider: Kind
) -> None:
    wish = classify(status, kind, message, headers, provider).retry_after
    assert wish is None or 0 <= wish <= 86_400


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Fri, 20 Nov 2026 08:00:30 GMT", "date": "Fri, 20 Nov 2026 08:00:00 GMT"},
         30.0),
        ({"retry-after": "Fri, 20 Nov 2026 07:00:30 GMT", "date": "Fri, 20 Nov 2026 08:00:00 GMT"},
         0.0),
        ({"retry-after": "99999999"}, 86_400.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Fri, 20 Nov 2026 08:00:30 GMT"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_retry_after_is_read_in_each_of_its_forms(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers) == seconds


def test_a_wish_to_wait_is_kept_for_what_may_be_tried_again_only() -> None:
    headers = {"retry-after": "7"}
    assert classify(429, "rate_limit_error", "", headers, "kimi").retry_after == 7
    assert classify(400, "invalid_request_error", "", headers, "kimi").retry_after is None
