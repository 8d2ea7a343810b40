"""Providers against their targets, and against each other. Pure.

Rates are fractions from 0 to 1; a formula whose divisor is zero gives ``None``: no data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.calls import Quality
from runner.settings.tables import Targets

ALL = "all providers"


@dataclass(frozen=True, slots=True)
class Miss:
    """A target that was missed: a warning, never a failure."""

    provider: str
    metric: str
    value: float
    target: float
    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A provider against the one that it is to replace.

    ``cost_saving`` (cost of a task) and ``speed_change`` (response time) are per cent of the old
    provider's, more is better; ``success_rate_change`` is percentage points; ``tokens_efficiency``
    is the new tokens per task divided by the old.
    """

    new: str
    old: str
    cost_saving: float | None
    speed_change: float | None
    success_rate_change: float | None
    tokens_efficiency: float | None


def misses(q: Quality, targets: Targets) -> list[Miss]:
    """The targets that these calls miss. Metrics without data miss nothing.

    ``fallback_rate`` is judged over all providers only: a provider that is there as a fallback has
    to have a high one.
    """
    return list(_misses(q, targets))


def _misses(q: Quality, targets: Targets) -> Iterator[Miss]:
    who = q.provider or ALL
    rate, target = q.success_rate, targets.success_rate
    if rate is not None and rate < target:
        text = f"{who}: success_rate {rate:.1%} is below {target:.1%}"
        yield Miss(q.provider, "success_rate", rate, target, text)
    seconds, target = q.avg_ms and q.avg_ms / 1000, targets.avg_response_time
    if seconds is not None and seconds > target:
        text = f"{who}: avg_response_time {seconds:.2f} s is above {target:g} s"
        yield Miss(q.provider, "avg_response_time", seconds, target, text)
    cost, target = q.cost_per_task, targets.cost_per_task
    if cost is not None and cost > target:
        text = f"{who}: cost_per_task ${cost:.6f} is above ${target:.6f}"
        yield Miss(q.provider, "cost_per_task", cost, target, text)
    rate, target = q.fallback_rate, targets.fallback_rate
    if rate is not None and rate > target and not q.provider:
        text = f"{who}: fallback_rate {rate:.1%} is above {target:.1%}"
        yield Miss(q.provider, "fallback_rate", rate, target, text)
    rate, target = q.token_efficiency, targets.token_efficiency
    if rate is not None and rate < target:
        text = f"{who}: token_efficiency {rate:.2f} is below {target:.2f}"
        yield Miss(q.provider, "token_efficiency", rate, target, text)


def compare(new: Quality, old: Quality) -> Comparison:
    """The new provider against the old one, per task: one answered call."""
    rates = (new.success_rate, old.success_rate)
    points = None if rates[0] is None or rates[1] is None else (rates[0] - rates[1]) * 100
    tokens = (new.tokens_per_task, old.tokens_per_task)
    return Comparison(
        new=new.provider,
        old=old.provider,
        cost_saving=_saved(new.cost_per_task, old.cost_per_task),
        speed_change=_saved(new.avg_ms, old.avg_ms),
        success_rate_change=points,
        tokens_efficiency=tokens[0] / tokens[1] if tokens[0] is not None and tokens[1] else None,
    )


def _saved(new: float | None, old: float | None) -> float | None:
    return (old - new) / old * 100 if new is not None and old else None
