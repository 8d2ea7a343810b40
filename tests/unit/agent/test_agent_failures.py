"""What a refusal means is read from its structure, never from digits in its text."""

from __future__ import annotations

import json

import pytest

from runner.agent.failures import (
    GiveUp,
    ModelFailure,
    Retry,
    classify_error,
    decide_retry,
    parse_retry_after,
)


def body(type_: str = "", message: str = "") -> bytes:
    return json.dumps({"error": {"type": type_, "message": message}}).encode()


@pytest.mark.parametrize(
    ("status", "answer", "code", "retryable"),
    [
        (401, body("invalid_authentication_error"), "login_required", False),
        (403, body("permission_denied_error", "no"), "login_required", False),
        (403, body("access_terminated_error", "only for Coding Agents"), "client_refused", False),
        (403, body("", "usage limit for this billing cycle"), "quota_exceeded", False),
        (402, body(), "membership", False),
        (404, body("resource_not_found_error"), "model_not_found", False),
        (429, body("rate_limit_reached_error"), "rate_limited", True),
        (429, body("engine_overloaded_error"), "rate_limited", True),
        (429, body("exceeded_current_quota_error"), "quota_exceeded", False),
        (
            400,
            body("invalid_request_error", "exceeded model token limit: 8"),
            "context_too_long",
            0,
        ),
        (413, b"<html>", "context_too_long", False),
        (400, body("invalid_request_error", "got 429 tools"), "bad_request", False),
        (504, b"", "provider_timeout", True),
        (500, b"not json", "provider_unavailable", True),
        (503, body("server_error", "error 401"), "provider_unavailable", True),
        (302, b"", "provider_unavailable", False),
    ],
)
def test_each_refusal_has_its_name(status: int, answer: bytes, code: str, retryable: bool) -> None:
    failure = classify_error(status, answer)
    assert (failure.code, failure.retryable) == (code, bool(retryable))
    assert failure.hint


def failing(*, retryable: bool = True, retry_after: float | None = None) -> ModelFailure:
    return ModelFailure("x", code="rate_limited", retryable=retryable, retry_after=retry_after)


def test_waits_double_and_the_providers_wish_comes_first() -> None:
    waits = [decide_retry(failing(), n, 9, jitter=0.5) for n in range(3)]
    assert waits == [Retry(0.5), Retry(1.0), Retry(2.0)]
    assert decide_retry(failing(retry_after=7), 2, 9, jitter=0.5) == Retry(7)


def test_no_retry_when_it_is_used_up_or_hopeless_or_too_far_away() -> None:
    assert decide_retry(failing(), 3, 3, jitter=0) == GiveUp()
    assert decide_retry(failing(retryable=False), 0, 3, jitter=0) == GiveUp()
    assert decide_retry(failing(retry_after=61), 0, 3, jitter=0) == GiveUp()


def test_retry_after_may_be_seconds_or_a_date() -> None:
    assert parse_retry_after("2.5") == 2.5
    assert parse_retry_after("Thu, 01 Jan 1970 00:01:40 GMT", now=40) == 60
    assert parse_retry_after("-3") == 0
    assert parse_retry_after("soon") is None
    assert parse_retry_after("nan") is None
    assert parse_retry_after(None) is None
