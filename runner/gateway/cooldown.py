"""Who rests after failures, and until when: one small state machine, pure.

::

    CLOSED --failed--> OPEN(until) --the time is over, one caller asks--> HALF_OPEN
    HALF_OPEN --succeeded--> CLOSED
    HALF_OPEN --failed--> OPEN, twice as long
    HALF_OPEN --abandoned, or no news for PROBE seconds--> as OPEN whose time is over

Times are Unix seconds, since a rest is remembered over restarts. A clock that was set back ends a
rest rather than prolong it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from runner.gateway.failure import Scope, Verdict

MAX_COOLDOWN = 600.0
PROBE = 660.0
"""Seconds after which a probe that nobody reported on counts as lost, its process being dead."""
MAX_SPREAD = 1.0


class Phase(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Rest:
    """``since`` is when it opened or its probe began; ``strikes`` counts openings in a row.

    ``firm`` says that the provider itself named the time: nobody asks before ``until``, while any
    other rest gives way when there is nobody else to ask.
    """

    phase: Phase = Phase.CLOSED
    since: float = 0.0
    until: float = 0.0
    strikes: int = 0
    firm: bool = False
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For storage."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any] | None) -> Rest:
        """Back from storage. What cannot be read is no rest: it is only a memory."""
        try:
            fields = dict(stored or {})
            return cls(**{**fields, "phase": Phase(fields.get("phase", Phase.CLOSED))})
        except (TypeError, ValueError):
            return CLOSED

    def wait(self, now: float) -> float:
        """Seconds until somebody may ask; 0 when one may now."""
        if self.phase is Phase.CLOSED or now < self.since:
            return 0.0
        return max(0.0, self.until - now)


CLOSED = Rest()


@dataclass(frozen=True, slots=True)
class Key:
    """What rests. Empty parts stand for all; ``fingerprint`` names a credential, not its text."""

    endpoint: str
    fingerprint: str = ""
    model: str = ""

    def at(self, scope: Scope) -> Key:
        """The part of this that a scope covers."""
        match scope:
            case Scope.ENDPOINT:
                return Key(self.endpoint)
            case Scope.CREDENTIAL:
                return Key(self.endpoint, self.fingerprint)
            case Scope.MODEL:
                return self

    @property
    def all(self) -> tuple[Key, Key, Key]:
        """Everything that must not rest for this to be asked."""
        return Key(self.endpoint), Key(self.endpoint, self.fingerprint), self

    @property
    def text(self) -> str:
        return f"{self.endpoint}\n{self.fingerprint}\n{self.model}"


def entered(rest: Rest, now: float) -> Rest:
    """Somebody asks now, which is allowed: the first one after a rest is its probe."""
    if rest.phase is Phase.CLOSED:
        return rest
    return replace(rest, phase=Phase.HALF_OPEN, since=now, until=now + PROBE, firm=False)


def failed(
    rest: Rest, verdict: Verdict, now: float, *, started: float, cooldown: float, jitter: float
) -> Rest:
    """A call that began at ``started`` failed.

    Args:
        cooldown: seconds of the first rest, unless the verdict says its own. 0 never rests.
        jitter: 0 to 1. Spreads the ends of rests, so that not everybody comes back at once.
    """
    late = rest.phase is not Phase.CLOSED and started < rest.since <= now
    if verdict.retry_after is not None:
        spread = jitter * min(MAX_SPREAD, verdict.retry_after / 10)
        until = now + verdict.retry_after + spread
        firm = True
    else:
        if late:
            return rest  # it says what is known already
        base = cooldown if verdict.cooldown is None else verdict.cooldown
        limit = max(MAX_COOLDOWN, base)
        until = now + min(limit, base * 2.0 ** min(rest.strikes, 30)) * (1 - jitter / 10)
        firm = False
    if until <= now:
        return CLOSED if rest.phase is Phase.HALF_OPEN else rest
    strikes = rest.strikes if late else rest.strikes + 1
    if late and rest.phase is Phase.OPEN:
        until = max(until, rest.until)
    return Rest(Phase.OPEN, now, until, strikes, firm, verdict.reason.value)


def succeeded(rest: Rest, now: float, *, started: float) -> Rest:
    """A call that began at ``started`` got its first byte; from before a rest it ends none."""
    if rest.phase is Phase.OPEN and started < rest.since <= now:
        return rest
    return CLOSED


def abandoned(rest: Rest, now: float) -> Rest:
    """The probe ended and taught nothing: the client left, or its request was bad."""
    if rest.phase is not Phase.HALF_OPEN:
        return rest
    return replace(rest, phase=Phase.OPEN, since=now, until=now)
