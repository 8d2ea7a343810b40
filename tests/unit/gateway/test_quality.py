import pytest

from runner.calls import NANO, Quality
from runner.gateway.quality import compare, misses
from runner.settings.tables import Targets

GOOD = Quality(
    "kimi",
    answered=100,
    avg_ms=2000.0,
    tokens=1000,
    useful_tokens=1000,
    cost=int(0.05 * NANO),
    priced=100,
)


def metrics(q: Quality) -> set[str]:
    return {m.metric for m in misses(q, Targets())}


def test_calls_within_the_targets_warn_of_nothing() -> None:
    assert metrics(GOOD) == set()


def test_each_missed_target_is_told_with_value_and_target() -> None:
    bad = Quality(
        "",
        answered=80,
        failed=15,
        cut=5,
        fallbacks=20,
        avg_ms=7500.0,
        tokens=1000,
        useful_tokens=700,
        cost=NANO,
        priced=80,
    )
    found = {m.metric: m for m in misses(bad, Targets())}
    assert set(found) == {
        "success_rate",
        "avg_response_time",
        "cost_per_task",
        "fallback_rate",
        "token_efficiency",
    }
    assert found["success_rate"].text == "all providers: success_rate 80.0% is below 90.0%"
    assert found["avg_response_time"].text.endswith("7.50 s is above 5 s")
    assert found["cost_per_task"].value == pytest.approx(0.0125)


def test_a_provider_that_stands_in_for_others_is_not_blamed_for_it() -> None:
    assert metrics(Quality("deepseek", answered=10, fallbacks=10)) == set()
    assert metrics(Quality("", answered=10, fallbacks=10)) == {"fallback_rate"}


def test_no_data_misses_no_target() -> None:
    assert metrics(Quality("new")) == set()


def test_operators_set_their_own_targets() -> None:
    strict = Targets(success_rate=1.0, avg_response_time=1.0)
    assert {m.metric for m in misses(GOOD, strict)} == {"avg_response_time"}


def test_a_comparison_says_what_the_new_provider_changes() -> None:
    old = Quality(
        "claude",
        answered=80,
        failed=20,
        avg_ms=4000.0,
        tokens=1600,
        useful_tokens=1600,
        cost=int(0.08 * NANO),
        priced=80,
    )
    got = compare(GOOD, old)
    assert (got.new, got.old) == ("kimi", "claude")
    assert got.cost_saving == pytest.approx(50.0)
    assert got.speed_change == pytest.approx(50.0)
    assert got.success_rate_change == pytest.approx(20.0)
    assert got.tokens_efficiency == pytest.approx(0.5)


def test_a_comparison_without_data_has_no_numbers() -> None:
    got = compare(GOOD, Quality("old"))
    assert (got.cost_saving, got.speed_change) == (None, None)
    assert (got.success_rate_change, got.tokens_efficiency) == (None, None)
    free = Quality("free", answered=1, avg_ms=1.0, priced=1)
    assert compare(GOOD, free).cost_saving is None
