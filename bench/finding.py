"""What a measure gives back: numbers with their spread, what they are held against, the verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

NO_BUDGET = "no budget"


@dataclass(frozen=True, slots=True)
class Spread:
    """Many values of one kind in a few numbers: their middle, and where eight of ten lie."""

    median: float
    p10: float
    p90: float
    p99: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        ordered = sorted(values)
        p10, p90, p99 = (percentile(ordered, q) for q in (0.10, 0.90, 0.99))
        return cls(statistics.median(ordered), p10, p90, p99, len(ordered))

    def text(self, unit: str) -> str:
        low, high = number(self.p10), number(self.p90)
        return f"{number(self.median)} {unit} ({low} to {high}, n={self.count})"


@dataclass(frozen=True, slots=True)
class Budget:
    """``actual`` is the number that is held to ``limit``; ``what`` says which number that is."""

    what: str
    actual: float
    limit: float
    at_least: bool = False

    @property
    def within(self) -> bool:
        return self.actual >= self.limit if self.at_least else self.actual <= self.limit

    def text(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{self.what} {number(self.actual)} {sign} {number(self.limit)}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table. Without budgets it only informs."""

    measure: str
    value: Spread
    unit: str
    against: str = ""
    budgets: tuple[Budget, ...] = ()

    @property
    def verdict(self) -> str:
        if not self.budgets:
            return NO_BUDGET
        return "within" if all(b.within for b in self.budgets) else "missed"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


class Skipped(Exception):
    """This machine lacks what the measure needs; ``but`` is what was found without it."""

    def __init__(self, reason: str, *, but: Sequence[Finding] = ()) -> None:
        super().__init__(reason)
        self.but = but


def percentile(ordered: Sequence[float], q: float) -> float:
    """The value that the share ``q`` of the ordered values does not exceed (nearest rank)."""
    return ordered[max(math.ceil(q * len(ordered)) - 1, 0)]


def number(value: float) -> str:
    """Three digits that count, and no more."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
