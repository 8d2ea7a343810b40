"""One call to a model as the ledger keeps it, and what is read out of the ledger again.

Frozen values without imports from the house, because the gateway makes calls, the store keeps
them, and neither knows the other. Money is whole nanodollars (1e-9 US dollars): sums are exact and
the same in any order. Times are Unix seconds; days and months are those of UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

NANO = 10**9
DAY = 86_400


class Outcome(StrEnum):
    """How a call ended, as its client saw it."""

    OK = "ok"
    FAILED = "failed"  # no answer: every attempt failed
    CUT = "cut"  # the answer broke after its first byte
    CANCELLED = "cancelled"  # the client left
    REFUSED = "refused"  # we said no before any provider was asked


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens as the provider reported them; ``None`` where it said nothing.

    ``input`` is what is billed in full: ``cached`` (read from a cache) and ``cache_write`` are not
    in it. ``output`` is everything the model wrote; ``reasoning`` is a part of it.
    """

    input: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    output: int | None = None
    reasoning: int | None = None

    @property
    def total(self) -> int | None:
        """Input of all kinds and output; ``None`` when nothing was reported."""
        known = [
            n for n in (self.input, self.cached, self.cache_write, self.output) if n is not None
        ]
        return sum(known) if known else None


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens; ``None`` where no price is known.

    ``reasoning`` is for models that bill it apart; ``None`` bills it as output. ``as_of`` is the
    date of the price list.
    """

    input: float
    output: float
    cached: float | None = None
    cache_write: float | None = None
    reasoning: float | None = None
    as_of: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that brought no answer; ``type`` is the class of the failure."""

    provider: str
    model: str
    type: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client, with all its attempts.

    ``group`` or ``key`` (its name, never the secret) is who called, empty for neither. ``provider``
    and ``model`` answered, or were tried last. ``price`` is the price list it was costed by, and
    ``cost`` nanodollars, ``None`` when it is not known. ``first_byte_ms`` is ``None`` when there
    was no byte of an answer. ``failures`` are the attempts that failed, in order.
    """

    at: float
    outcome: Outcome
    group: str = ""
    key: str = ""
    route: str = ""
    provider: str = ""
    model: str = ""
    tokens: Tokens = Tokens()
    price: Price | None = None
    cost: int | None = None
    first_byte_ms: float | None = None
    total_ms: float = 0.0
    fallback: bool = False
    attempts: int = 1
    failures: tuple[Failure, ...] = ()


class By(StrEnum):
    """What usage can be listed by."""

    GROUP = "group"
    KEY = "key"
    ROUTE = "route"
    PROVIDER = "provider"
    MODEL = "model"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums over calls. Of the calls with an answer, ``priced`` are in ``cost``; the others are
    ``unpriced`` (usage, but no price) or ``no_usage`` (the provider did not report all of it).
    """

    by: Mapping[By, str]
    calls: int = 0
    ok: int = 0
    tokens: Tokens = Tokens()
    cost: int = 0
    priced: int = 0
    unpriced: int = 0
    no_usage: int = 0

    @property
    def known_cost(self) -> int | None:
        """``None`` when there were answers and no cost of any is known."""
        return None if not self.priced and (self.unpriced or self.no_usage) else self.cost


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds, nearest rank; ``None`` without calls."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a provider (empty: all of them) answered in a window of time.

    ``answered`` calls were complete, ``cut`` ones broke on the way, ``failed`` counts attempts (for
    all providers together: calls) without an answer. Calls that we refused or whose client left
    are in none of these. ``fallbacks`` are answers that stood in for another model. ``tokens``
    are of all calls, ``useful_tokens`` of the answered ones. ``cost`` is nanodollars of the
    ``priced`` answered calls.
    """

    provider: str
    answered: int = 0
    cut: int = 0
    failed: int = 0
    fallbacks: int = 0
    avg_ms: float | None = None
    total: Percentiles = Percentiles()
    first_byte: Percentiles = Percentiles()
    tokens: int = 0
    useful_tokens: int = 0
    cost: int = 0
    priced: int = 0

    @property
    def success_rate(self) -> float | None:
        """Answered of all that could have been, 0 to 1."""
        return _ratio(self.answered, self.answered + self.cut + self.failed)

    @property
    def fallback_rate(self) -> float | None:
        return _ratio(self.fallbacks, self.answered)

    @property
    def tokens_per_task(self) -> float | None:
        """Useful tokens of one answered call."""
        return _ratio(self.useful_tokens, self.answered)

    @property
    def token_efficiency(self) -> float | None:
        return _ratio(self.useful_tokens, self.tokens)

    @property
    def cost_per_task(self) -> float | None:
        """US dollars of one answered call whose cost is known."""
        return _ratio(self.cost, self.priced * NANO)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
