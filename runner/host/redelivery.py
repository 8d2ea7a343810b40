"""What to do after a delivery was tried. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from runner.channels.channel import Delivered, Failed, Rejected, Result, RetryAfter

FIRST_DELAY = 1.0
LONGEST_DELAY = 300.0
LONGEST_WISH = 3600.0


@dataclass(frozen=True, slots=True)
class Done:
    """It has arrived."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try once more at ``at`` (Unix seconds)."""

    at: float
    error: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Say that it could not be delivered."""

    error: str


def after_try(
    result: Result, attempts: int, since: float, now: float, *, max_age: float, jitter: float
) -> Done | Again | GiveUp:
    """What follows from the result of the ``attempts``-th try (from 1).

    Args:
        since: when the tries that ``max_age`` (seconds) bounds began.
        jitter: from 0 to 1, so that those who failed together do not come back together.
    """
    if isinstance(result, Delivered):
        return Done()
    if isinstance(result, Rejected):
        return GiveUp(result.reason)
    until = since + max_age
    if now >= until:
        return GiveUp(f"{result.reason}; given up after {attempts} tries in {now - since:.0f} s")
    longest = min(FIRST_DELAY * 2 ** min(attempts - 1, 20), LONGEST_DELAY)
    delay = longest * (0.5 + jitter / 2)
    match result:
        case RetryAfter(seconds, reason):
            wish = min(seconds, LONGEST_WISH) * (1 + jitter / 10)
            return Again(now + max(delay, wish), reason)  # never before it asked for
        case Failed(reason):
            return Again(min(now + delay, until), reason)  # a last try when time is up
