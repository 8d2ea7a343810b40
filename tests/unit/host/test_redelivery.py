"""What follows from a try: patient with who fails, obedient to who asks, and an end to all."""

from hypothesis import given
from hypothesis import strategies as st

from runner.channels.channel import Delivered, Failed, Rejected, Result, RetryAfter
from runner.host.redelivery import (
    LONGEST_DELAY,
    LONGEST_WISH,
    Again,
    Done,
    GiveUp,
    after_try,
)


def after(
    result: Result, attempts: int = 1, since: float = 0, now: float = 0, jitter: float = 0
) -> Done | Again | GiveUp:
    return after_try(result, attempts, since, now, max_age=1000, jitter=jitter)


def test_what_arrived_is_done_and_what_is_refused_is_given_up() -> None:
    assert after(Delivered(), now=5000) == Done()
    assert after(Rejected("HTTP 410")) == GiveUp("HTTP 410")


def test_waits_grow_and_are_bounded() -> None:
    waits = [after(Failed("x"), attempts, jitter=1) for attempts in (1, 2, 3, 4, 40)]
    assert [w.at for w in waits if isinstance(w, Again)] == [1, 2, 4, 8, LONGEST_DELAY]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_no_try_is_at_once_or_after_the_end(attempts: int, jitter: float) -> None:
    found = after(Failed("x"), attempts, now=900, jitter=jitter)
    assert isinstance(found, Again)
    assert 900.5 <= found.at <= 1000


@given(st.floats(0, 1e12), st.floats(0, 1))
def test_nobody_is_asked_before_it_wants_to_be(seconds: float, jitter: float) -> None:
    found = after(RetryAfter(seconds, "HTTP 429"), now=10, jitter=jitter)
    assert isinstance(found, Again)
    assert found.at >= 10 + min(seconds, LONGEST_WISH)
    assert found.at <= 10 + LONGEST_WISH * 1.1


def test_a_delivery_that_is_too_old_is_given_up_and_says_how_long_it_was_tried() -> None:
    for result in (Failed("HTTP 500"), RetryAfter(5, "HTTP 500")):
        assert after(result, attempts=9, since=100, now=1100) == GiveUp(
            "HTTP 500; given up after 9 tries in 1000 s"
        )
