"""One model against another on the same prompts: who answered better, and the report. Pure.

The report keeps the names of its predecessor: ``kimi`` is the new side, whatever it is called.
Differences are new minus old, so that less than zero is faster or cheaper; what nobody reported is
``None`` and never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import msgspec

from runner.calls import NANO, Quality
from runner.errors import ConfigError
from runner.gateway.quality import Comparison, Miss, compare, misses
from runner.gateway.verdict import Judgement, Validation
from runner.settings.tables import Targets

MAX_PROMPTS = 1000
_SHAPE = '[{"test": "NAME", "prompt": "TEXT", "expects": ["words of a good answer"]}]'


@dataclass(frozen=True, slots=True)
class Prompt:
    """``expects`` are texts that a good answer contains, all of them."""

    test: str
    prompt: str
    expects: tuple[str, ...] = ()


PROMPTS = (
    Prompt(
        "Simple function",
        "Write a Python function reverse_string(text) that returns the text reversed. "
        "Answer with the code only.",
        ("def reverse_string",),
    ),
    Prompt(
        "Bug fix",
        "Fix this function so that an empty list gives 0. Answer with the code only.\n\n"
        "def average(numbers):\n    return sum(numbers) / len(number)",
        ("def average", "len(numbers)"),
    ),
    Prompt(
        "Refactoring",
        "Make this function shorter without changing what it does. Answer with the code only.\n\n"
        "def is_adult(age):\n    if age >= 18:\n        return True\n    else:\n"
        "        return False",
        ("def is_adult", "return age >= 18"),
    ),
)
"""What is asked when nobody brings prompts of their own."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step of work by a model.

    ``tokens_used`` is 0 and ``cost`` (US dollars) ``None`` where the provider reported none.
    ``response_time`` is seconds until the whole answer was there. ``error`` says why there is no
    answer, ``reason`` is the class of that failure.
    """

    content: str
    provider: str
    tokens_used: int
    cost: float | None
    fallback_used: bool
    model: str = ""
    response_time: float = 0.0
    error: str = ""
    reason: str = ""


class Outcome(StrEnum):
    """The new side's answer to one prompt, beside the old side's."""

    BETTER = "better"
    SAME = "same"
    WORSE = "worse"
    MIXED = "mixed"  # faster and dearer, or slower and cheaper
    FAILED = "failed"  # both


@dataclass(frozen=True, slots=True)
class Side:
    """An answer and what a reviewer said of it, where one was asked."""

    result: StepResult
    validation: Validation | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt at both models; ``at`` is the time in ISO 8601."""

    prompt: Prompt
    new: Side
    old: Side
    at: str

    @property
    def time_diff(self) -> float | None:
        """Seconds, to two decimals; ``None`` when one of them did not answer."""
        if self.new.result.error or self.old.result.error:
            return None
        return (
            round(self.new.result.response_time - self.old.result.response_time, 2) + 0.0
        )  # no -0.0

    @property
    def cost_diff(self) -> float | None:
        """US dollars, to six decimals; ``None`` when one of the costs is not known."""
        new, old = self.new.result.cost, self.old.result.cost
        return None if new is None or old is None else round(new - old, 6) + 0.0


def read_prompts(document: bytes) -> tuple[Prompt, ...]:
    """A JSON list of prompts: objects like :class:`Prompt`, or texts.

    Raises:
        ConfigError: it is something else, or has too many or none.
    """
    try:
        found = msgspec.json.decode(document, type=list[str | _Written])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
        raise ConfigError(f"the prompts cannot be read: {e}", hint=f"write {_SHAPE}") from None
    if not 0 < len(found) <= MAX_PROMPTS:
        text = f"there are {len(found)} prompts, and 1 to {MAX_PROMPTS} can be compared"
        raise ConfigError(text, hint=f"write {_SHAPE}")
    return tuple(
        Prompt(f"prompt {n}", p)
        if isinstance(p, str)
        else Prompt(p.test or f"prompt {n}", p.prompt, tuple(p.expects))
        for n, p in enumerate(found, 1)
    )


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    prompt: str
    test: str = ""
    expects: list[str] = []


def succeeded(prompt: Prompt, side: Side) -> bool:
    """Whether there is an answer, it contains what it should, and no reviewer refused it."""
    if side.result.error or not side.result.content.strip():
        return False
    if side.validation is not None and side.validation.judgement is Judgement.INVALID:
        return False
    return all(text in side.result.content for text in prompt.expects)


def judge(run: Run) -> Outcome:
    """Success decides; between two successes time and cost do, as far as both are known."""
    new, old = succeeded(run.prompt, run.new), succeeded(run.prompt, run.old)
    if not new and not old:
        return Outcome.FAILED
    if new != old:
        return Outcome.BETTER if new else Outcome.WORSE
    changes = [change for change in (run.time_diff, run.cost_diff) if change]
    if not changes:
        return Outcome.SAME
    if all(change < 0 for change in changes):
        return Outcome.BETTER
    return Outcome.WORSE if all(change > 0 for change in changes) else Outcome.MIXED


def quality_of(name: str, answers: Iterable[tuple[Prompt, Side]]) -> Quality:
    """One side of all runs, in the terms in which providers are watched."""
    sides = [(side.result, succeeded(prompt, side)) for prompt, side in answers]
    good = [result for result, success in sides if success]
    priced = [result.cost for result in good if result.cost is not None]
    return Quality(
        provider=name,
        answered=len(good),
        failed=len(sides) - len(good),
        fallbacks=sum(result.fallback_used for result in good),
        avg_ms=1000 * sum(r.response_time for r in good) / len(good) if good else None,
        tokens=sum(result.tokens_used for result, _ in sides),
        useful_tokens=sum(result.tokens_used for result in good),
        cost=sum(round(cost * NANO) for cost in priced),
        priced=len(priced),
    )


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a comparison found."""

    new: Quality
    old: Quality
    change: Comparison
    warnings: tuple[Miss, ...]
    runs: tuple[Run, ...]

    def as_json(self, timestamp: str) -> dict[str, Any]:
        """For ``migration_report.json``."""
        return {
            "timestamp": timestamp,
            "kimi": _metrics(self.new, [(run.prompt, run.new) for run in self.runs]),
            "old": _metrics(self.old, [(run.prompt, run.old) for run in self.runs]),
            "comparison": {
                "cost_saving": self.change.cost_saving,
                "speed_change": self.change.speed_change,
                "success_rate_change": self.change.success_rate_change,
                "tokens_efficiency": self.change.tokens_efficiency,
            },
            "warnings": [asdict(miss) for miss in self.warnings],
            "tests": [_record(run) for run in self.runs],
        }


def report_of(new: str, old: str, runs: Sequence[Run], targets: Targets) -> Report:
    """The comparison of two models by name; the targets are those of the new one."""
    mine = quality_of(new, [(run.prompt, run.new) for run in runs])
    other = quality_of(old, [(run.prompt, run.old) for run in runs])
    return Report(mine, other, compare(mine, other), tuple(misses(mine, targets)), tuple(runs))


def _record(run: Run) -> dict[str, Any]:
    return {
        "test": run.prompt.test,
        "kimi": _side(run.prompt, run.new),
        "old": _side(run.prompt, run.old),
        "comparison": {
            "verdict": judge(run).value,
            "time_diff": run.time_diff,
            "cost_diff": run.cost_diff,
        },
        "timestamp": run.at,
    }


def _side(prompt: Prompt, side: Side) -> dict[str, Any]:
    checked = side.validation
    return {
        "success": succeeded(prompt, side),
        **asdict(side.result),
        "validation": None
        if checked is None
        else {"verdict": checked.judgement.value, "reason": checked.reason},
    }


def _metrics(q: Quality, answers: Sequence[tuple[Prompt, Side]]) -> dict[str, Any]:
    costs = [side.result.cost for _, side in answers if side.result.cost is not None]
    return {
        "name": q.provider,
        "success_rate": q.success_rate,
        "avg_response_time": None if q.avg_ms is None else q.avg_ms / 1000,
        "tokens_per_task": q.tokens_per_task,
        "token_efficiency": q.token_efficiency,
        "cost_per_task": q.cost_per_task,
        "total_cost": sum(costs) if costs else None,
        "fallback_rate": q.fallback_rate,
    }
