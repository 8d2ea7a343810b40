"""The decisions of a login's life, without any I/O."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from runner.errors import ConfigError, PermanentError
from runner.oauth.device import Wait, decide_poll
from runner.oauth.endpoint import Failed, Refused, check_host
from runner.oauth.refresh import ATTEMPTS, MAX_BACKOFF, backoff
from runner.oauth.status import LoginState, judge
from runner.oauth.store import RefreshRecord
from runner.oauth.tokens import TokenAnswer, TokenSet, needs_refresh


def tokens(
    left: float, lifetime: float | None = 900.0, refresh: str = "REFRESH-SECRET"
) -> TokenSet:
    """A login with ``left`` seconds to go at time 0."""
    return TokenSet(SecretStr("ACCESS-SECRET"), SecretStr(refresh), left, lifetime=lifetime)


@pytest.mark.parametrize(
    ("left", "lifetime", "due"),
    [
        (451, 900, False),
        (449, 900, True),
        (451, None, False),  # unknown: 900
        (449, None, True),
        (301, 500, False),
        (299, 500, True),
        (1_801, 3_600, False),
        (1_799, 3_600, True),
        (151, 300, False),  # shorter than the rule: half of it
        (149, 300, True),
        (5_000, 900, True),  # the clock went back: nobody knows when it ends
        (5_000, None, False),
    ],
)
def test_a_token_is_due_below_300_seconds_or_half_its_life(
    left: float, lifetime: float | None, due: bool
) -> None:
    assert needs_refresh(tokens(left, lifetime), 0.0) is due


def test_tokens_do_not_show_in_a_repr() -> None:
    answer = TokenAnswer(access_token=SecretStr("ACCESS-SECRET"))
    assert "SECRET" not in f"{tokens(1)!r} {tokens(1)} {answer!r} {tokens(1).fingerprint}"


def test_an_answer_without_a_refresh_token_keeps_the_old_one() -> None:
    new = TokenAnswer(access_token=SecretStr("n"), expires_in=60).tokens(100.0, tokens(1))
    assert new.refresh_token.get_secret_value() == "REFRESH-SECRET"
    assert (new.expires_at, new.lifetime) == (160.0, 60.0)


@pytest.mark.parametrize(
    ("answer", "interval"),
    [
        (Refused(400, "authorization_pending"), 5.0),
        (Refused(400, "slow_down"), 10.0),
        (Failed("HTTP 500", maybe_done=True), 5.0),
        (Failed("HTTP 429", maybe_done=False, retry_after=20.0), 20.0),
        (Failed("HTTP 429", maybe_done=False, retry_after=300.0), 60.0),
    ],
)
def test_a_waiting_login_polls_on(answer: Refused | Failed, interval: float) -> None:
    assert decide_poll(answer, 5.0) == Wait(interval)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("access_denied", "login_denied"),
        ("expired_token", "login_expired"),
        ("invalid_grant", "login_refused"),
    ],
)
def test_a_login_that_is_over_says_why_and_what_to_do(error: str, code: str) -> None:
    outcome = decide_poll(Refused(400, error), 5.0)
    assert isinstance(outcome, PermanentError)
    assert outcome.code == code
    assert "nanokimi login" in outcome.hint


@pytest.mark.parametrize(
    ("status", "error", "definitive"),
    [
        (401, "invalid_client", True),
        (403, "x", True),
        (400, "invalid_grant", True),
        (400, "invalid_request", False),
    ],
)
def test_only_a_dead_grant_is_definitive(status: int, error: str, definitive: bool) -> None:
    assert Refused(status, error).definitive is definitive


def test_three_retries_with_growing_spread_waits_and_no_long_ones() -> None:
    waits = [backoff(attempt, None, 0.5) for attempt in range(1, ATTEMPTS + 1)]
    assert waits == [0.2, pytest.approx(0.6), pytest.approx(1.8), None]
    assert backoff(1, None, 0.0) != backoff(1, None, 1.0)
    assert backoff(1, 2.0, 0.5) == 2.0
    assert backoff(1, MAX_BACKOFF + 1, 0.5) is None


@pytest.mark.parametrize(
    ("left", "refresh", "lost", "state"),
    [
        (800, "r", False, LoginState.OK),
        (100, "r", False, LoginState.EXPIRING),
        (-1, "r", False, LoginState.EXPIRING),
        (800, "r", True, LoginState.LOST),
        (-1, "", False, LoginState.LOST),
        (800, "", False, LoginState.OK),
    ],
)
def test_the_state_of_a_login(left: float, refresh: str, lost: bool, state: LoginState) -> None:
    record = RefreshRecord(lost=lost, last_refresh=3.0, last_failure="why")
    status = judge(tokens(left, refresh=refresh), record, 0.0)
    assert (status.state, status.last_refresh, status.last_failure) == (state, 3.0, "why")


def test_nobody_logged_in_is_absent() -> None:
    assert judge(None, RefreshRecord(), 0.0).state is LoginState.ABSENT


@pytest.mark.parametrize(
    "host", ["https://auth.kimi.com/", "http://127.0.0.1:80", "http://localhost", "http://10.0.0.9"]
)
def test_a_safe_oauth_host_is_taken(host: str) -> None:
    assert check_host(host) == host.rstrip("/")


@pytest.mark.parametrize(
    "host", ["", "auth.kimi.com", "http://auth.kimi.com", "ftp://x", "https://", "http://8.8.8.8"]
)
def test_tokens_never_cross_a_public_network_unencrypted(host: str) -> None:
    with pytest.raises(ConfigError):
        check_host(host)
