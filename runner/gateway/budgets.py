"""What groups and keys may spend in a day and a month of UTC, and what they have spent. Pure.

``limits_of`` says which bounds hold for a call, :class:`Spending` counts in memory, so that no
call waits for a disk, and ``refusal`` decides. A call is counted when it has ended: calls that run
side by side may overshoot a bound by what they cost themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from runner.calls import DAY, NANO, Call
from runner.gateway.failure import GatewayFailure
from runner.settings.tables import Budget, Budgets, GatewayKey


class Window(StrEnum):
    DAY = "day"
    MONTH = "month"


class Unit(StrEnum):
    DOLLARS = "dollars"
    TOKENS = "tokens"


class Kind(StrEnum):
    GROUP = "group"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Spender:
    """Who spends: a group by its id, or a key by its name."""

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class Limit:
    """``amount`` is nanodollars or tokens."""

    spender: Spender
    window: Window
    unit: Unit
    amount: int


@dataclass(frozen=True, slots=True)
class Spent:
    """``cost`` is nanodollars of the calls whose cost is known; ``tokens`` are of all kinds."""

    cost: int = 0
    tokens: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.cost + other.cost, self.tokens + other.tokens)


def start_of(window: Window, at: float) -> float:
    """When the day or month of ``at`` began, in UTC, which has no summer time."""
    if window is Window.DAY:
        return at // DAY * DAY
    day = datetime.fromtimestamp(at, UTC)
    return datetime(day.year, day.month, 1, tzinfo=UTC).timestamp()


def end_of(window: Window, at: float) -> float:
    """When the next day or month begins."""
    start = start_of(window, at)
    # No month has more than 31 days, and no two together have less than 59.
    return start + DAY if window is Window.DAY else start_of(window, start + 31 * DAY + DAY / 2)


def allows(key: GatewayKey, model: str) -> bool:
    """Whether the key may ask for this model name, as the client wrote it."""
    return not key.models or model in key.models


def limits_of(budgets: Budgets, group: str, key: GatewayKey | None) -> tuple[Limit, ...]:
    """The bounds of a call by this group (empty: none) or with this key."""
    found: list[Limit] = []
    if group:
        found += _limits(Spender(Kind.GROUP, group), budgets.groups.get(group, budgets.group))
    if key is not None:
        found += _limits(Spender(Kind.KEY, key.name), key.budget or budgets.key)
    return tuple(found)


def _limits(spender: Spender, budget: Budget) -> Iterator[Limit]:
    for window, dollars, tokens in (
        (Window.DAY, budget.day, budget.day_tokens),
        (Window.MONTH, budget.month, budget.month_tokens),
    ):
        if dollars is not None:
            yield Limit(spender, window, Unit.DOLLARS, round(dollars * NANO))
        if tokens is not None:
            yield Limit(spender, window, Unit.TOKENS, tokens)


def refusal(
    limits: Iterable[Limit], spent: Callable[[Spender, Window], Spent], now: float
) -> GatewayFailure | None:
    """``None`` to allow, or the refusal of the bound that is lifted last.

    Its type is that of a provider whose quota is used up, so that clients do not try at once again.
    """
    reached: list[tuple[float, Limit, int]] = []
    for limit in limits:
        sums = spent(limit.spender, limit.window)
        used = sums.cost if limit.unit is Unit.DOLLARS else sums.tokens
        if used >= limit.amount:
            reached.append((end_of(limit.window, now), limit, used))
    if not reached:
        return None
    reset, limit, used = max(reached, key=lambda r: r[0])
    when = datetime.fromtimestamp(reset, UTC).isoformat().replace("+00:00", "Z")
    who = f"{limit.spender.kind} {limit.spender.name[:80]!r}"
    return GatewayFailure(
        status=429,
        type="exceeded_current_quota_error",
        message=(
            f"the {limit.window} budget of {who} is used up: "
            f"{_amount(limit.unit, used)} of {_amount(limit.unit, limit.amount)}; "
            f"it starts anew at {when}"
        ),
        retry_after=reset - now,
    )


def _amount(unit: Unit, number: int) -> str:
    return f"{number:,} tokens" if unit is Unit.TOKENS else f"${number / NANO:,.4f}"


_Slot = tuple[Spender, Window, float]


class Spending:
    """What each spender has spent in the running day and month. Not a ledger: it forgets.

    One process alone calls :meth:`settle` once with the calls of this month, then :meth:`add` for
    each call. Where several write to one ledger, each follows it: :meth:`mark`, flush the own calls
    into the ledger, read what is new in it, :meth:`settle`. A call that is written between the two
    is counted twice until the next round, never zero times.
    """

    def __init__(self) -> None:
        self._settled: dict[_Slot, Spent] = {}
        self._marked: dict[_Slot, Spent] = {}
        self._fresh: dict[_Slot, Spent] = {}
        self._today = 0.0

    def add(self, call: Call) -> None:
        """Count a call of this process."""
        _count(self._fresh, call)
        self._forget(call.at)

    def mark(self) -> None:
        """Calls added so far will be among the next ones to :meth:`settle`."""
        for slot, spent in self._fresh.items():
            self._marked[slot] = self._marked.get(slot, Spent()) + spent
        self._fresh = {}

    def settle(self, calls: Iterable[Call], now: float) -> None:
        """Count calls read from the ledger, in place of those that were marked; forget the past."""
        for call in calls:
            _count(self._settled, call)
        self._marked = {}
        self._forget(now)

    def spent(self, spender: Spender, window: Window, now: float) -> Spent:
        """What is counted for the day or month of ``now``."""
        slot = (spender, window, start_of(window, now))
        nothing = Spent()
        return (
            self._settled.get(slot, nothing)
            + self._marked.get(slot, nothing)
            + self._fresh.get(slot, nothing)
        )

    def _forget(self, now: float) -> None:
        """With each new day, what no window holds any more."""
        today = start_of(Window.DAY, now)
        if today <= self._today:
            return
        self._today = today
        self._settled = _current(self._settled, now)
        self._marked = _current(self._marked, now)
        self._fresh = _current(self._fresh, now)

    def refusal(self, limits: Iterable[Limit], now: float) -> GatewayFailure | None:
        """As :func:`refusal`, from these counts."""
        return refusal(limits, lambda spender, window: self.spent(spender, window, now), now)


def _count(into: dict[_Slot, Spent], call: Call) -> None:
    spent = Spent(call.cost or 0, call.tokens.total or 0)
    if not spent.cost and not spent.tokens:
        return
    for kind, name in ((Kind.GROUP, call.group), (Kind.KEY, call.key)):
        if name:
            for window in Window:
                slot = (Spender(kind, name), window, start_of(window, call.at))
                into[slot] = into.get(slot, Spent()) + spent


def _current(counts: Mapping[_Slot, Spent], now: float) -> dict[_Slot, Spent]:
    starts = {window: start_of(window, now) for window in Window}
    return {slot: spent for slot, spent in counts.items() if slot[2] >= starts[slot[1]]}
