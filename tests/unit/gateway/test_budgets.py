from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.calls import NANO, Call, Outcome, Tokens
from runner.gateway.budgets import (
    Kind,
    Limit,
    Spender,
    Spending,
    Spent,
    Unit,
    Window,
    allows,
    end_of,
    limits_of,
    refusal,
    start_of,
)
from runner.settings.secret import Secret
from runner.settings.tables import Budget, Budgets, GatewayKey

TEAM = Spender(Kind.GROUP, "team")
times = st.floats(0, 4e9)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON = at("2026-11-20T12:00:00")


def call(when: float = NOON, cost: int | None = NANO, tokens: int = 100, **more: str) -> Call:
    who = more or {"group": "team"}
    return Call(at=when, outcome=Outcome.OK, cost=cost, tokens=Tokens(input=tokens), **who)


@pytest.mark.parametrize(
    ("window", "when", "start", "end"),
    [
        # Nights in which clocks change somewhere: a day of UTC has 24 hours all the same.
        (Window.DAY, "2026-03-29T01:30:00", "2026-03-29T00:00:00", "2026-03-30T00:00:00"),
        (Window.DAY, "2026-10-25T23:59:59", "2026-10-25T00:00:00", "2026-10-26T00:00:00"),
        (Window.DAY, "2026-11-20T00:00:00", "2026-11-20T00:00:00", "2026-11-21T00:00:00"),
        (Window.MONTH, "2026-11-20T12:00:00", "2026-11-01T00:00:00", "2026-12-01T00:00:00"),
        (Window.MONTH, "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        (Window.MONTH, "2028-02-29T08:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        (Window.MONTH, "2027-01-31T08:00:00", "2027-01-01T00:00:00", "2027-02-01T00:00:00"),
    ],
)
def test_windows_are_days_and_months_of_utc(
    window: Window, when: str, start: str, end: str
) -> None:
    assert start_of(window, at(when)) == at(start)
    assert end_of(window, at(when)) == at(end)


@given(times, st.sampled_from(Window))
def test_windows_meet_without_gap_or_overlap(when: float, window: Window) -> None:
    start, end = start_of(window, when), end_of(window, when)
    assert start <= when < end
    assert start_of(window, end) == end
    assert start_of(window, end - 0.001) == start


def test_a_group_has_its_own_budget_or_that_of_each_group() -> None:
    budgets = Budgets(group=Budget(day=1.0), groups={"vip": Budget(month_tokens=5)})
    assert limits_of(budgets, "team", None) == (Limit(TEAM, Window.DAY, Unit.DOLLARS, NANO),)
    vip = Spender(Kind.GROUP, "vip")
    assert limits_of(budgets, "vip", None) == (Limit(vip, Window.MONTH, Unit.TOKENS, 5),)
    assert limits_of(Budgets(), "team", None) == ()


def test_a_key_has_its_own_budget_or_that_of_each_key() -> None:
    budgets = Budgets(key=Budget(day_tokens=7), group=Budget(day=1.0))
    plain = GatewayKey(key=Secret("x"), name="a")
    rich = GatewayKey(key=Secret("x"), name="b", budget=Budget(month=2.0))
    a, b = Spender(Kind.KEY, "a"), Spender(Kind.KEY, "b")
    assert limits_of(budgets, "", plain) == (Limit(a, Window.DAY, Unit.TOKENS, 7),)
    assert limits_of(budgets, "", rich) == (Limit(b, Window.MONTH, Unit.DOLLARS, 2 * NANO),)


def test_a_key_asks_for_its_models_only() -> None:
    bound = GatewayKey(key=Secret("x"), models=("kimi-code", "route:FAST"))
    assert allows(bound, "route:FAST")
    assert not allows(bound, "kimi-k3")
    assert allows(GatewayKey(key=Secret("x")), "anything")


def test_a_budget_that_is_used_up_refuses_and_says_until_when() -> None:
    limits = limits_of(Budgets(group=Budget(day=5.0)), "team", None)
    assert refusal(limits, lambda *_: Spent(cost=5 * NANO - 1), NOON) is None
    refused = refusal(limits, lambda *_: Spent(cost=5 * NANO), NOON)
    assert refused is not None
    assert (refused.status, refused.retry_after) == (429, 12 * 3600)
    assert "day budget of group 'team'" in refused.message
    assert "$5.0000 of $5.0000" in refused.message
    assert "2026-11-21T00:00:00Z" in refused.message


def test_tokens_bound_calls_that_have_no_price() -> None:
    limits = limits_of(Budgets(group=Budget(day=5.0, day_tokens=1000)), "team", None)
    refused = refusal(limits, lambda *_: Spent(cost=0, tokens=1200), NOON)
    assert refused is not None
    assert "1,200 tokens of 1,000 tokens" in refused.message


def test_of_two_bounds_the_one_that_is_lifted_last_is_told() -> None:
    limits = limits_of(Budgets(group=Budget(day=1.0, month=3.0)), "team", None)
    refused = refusal(limits, lambda *_: Spent(cost=4 * NANO), NOON)
    assert refused is not None
    assert "month budget" in refused.message
    assert "2026-12-01T00:00:00Z" in refused.message


def test_a_budget_of_nothing_allows_nothing() -> None:
    limits = limits_of(Budgets(group=Budget(day=0)), "team", None)
    assert Spending().refusal(limits, NOON) is not None


def test_spending_counts_for_group_and_key_and_starts_anew_each_day() -> None:
    spending = Spending()
    spending.add(call(group="team", key="ci"))
    spending.add(call(group="team"))
    spending.add(call(group="other", cost=None))
    assert spending.spent(TEAM, Window.DAY, NOON) == Spent(2 * NANO, 200)
    assert spending.spent(Spender(Kind.KEY, "ci"), Window.DAY, NOON) == Spent(NANO, 100)
    assert spending.spent(Spender(Kind.GROUP, "other"), Window.DAY, NOON) == Spent(0, 100)
    tomorrow = NOON + 86_400
    assert spending.spent(TEAM, Window.DAY, tomorrow) == Spent()
    assert spending.spent(TEAM, Window.MONTH, tomorrow) == Spent(2 * NANO, 200)


def test_calls_of_other_processes_count_once_they_are_in_the_ledger() -> None:
    spending = Spending()
    own, theirs = call(cost=1), call(cost=10)
    spending.add(own)
    spending.mark()
    late = call(cost=100)
    spending.add(late)
    spending.settle([own, theirs], NOON)
    assert spending.spent(TEAM, Window.DAY, NOON).cost == 111
    spending.mark()
    spending.settle([late], NOON)
    assert spending.spent(TEAM, Window.DAY, NOON).cost == 111


def test_a_budget_holds_while_the_ledger_cannot_be_read() -> None:
    spending = Spending()
    for _ in range(3):
        spending.add(call(cost=1))
        spending.mark()  # and the read after it failed
    assert spending.spent(TEAM, Window.DAY, NOON).cost == 3


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 10**12), times), max_size=20))
def test_the_spending_of_all_groups_is_the_sum_of_all_calls_of_the_window(
    made: list[tuple[str, int, float]],
) -> None:
    spending = Spending()
    half = len(made) // 2
    calls = [call(when, cost, 1, group=group) for group, cost, when in made]
    for one in calls[:half]:
        spending.add(one)
    now = max([when for _, _, when in made], default=0.0)
    spending.settle(calls[half:], now)
    for window in Window:
        found = sum(spending.spent(Spender(Kind.GROUP, g), window, now).cost for g in ("a", "b"))
        start = start_of(window, now)
        assert found == sum(cost for _, cost, when in made if when >= start)
