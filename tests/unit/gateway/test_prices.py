from hypothesis import given
from hypothesis import strategies as st

from runner.calls import NANO, Price, Tokens
from runner.gateway.prices import Unpriced, cost_of, known_cost, prices_of
from runner.settings.models import shipped

K3 = Price(input=3.0, cached=0.3, output=15.0, as_of="2026-11-01")

counts = st.integers(0, 10**9)
dollars = st.decimals(0, 1000, places=4).map(float)
prices = st.builds(
    Price, input=dollars, output=dollars, cached=dollars, cache_write=dollars, reasoning=dollars
)
tokens = st.builds(
    Tokens, input=counts, cached=counts, cache_write=counts, output=counts, reasoning=st.just(0)
)


def test_each_kind_is_priced_apart() -> None:
    used = Tokens(input=1_000_000, cached=2_000_000, output=100_000, reasoning=60_000)
    assert cost_of(used, K3) == round((3.0 + 0.6 + 1.5) * NANO)


def test_reasoning_is_billed_once_as_the_output_it_is() -> None:
    assert cost_of(Tokens(input=0, output=100, reasoning=100), K3) == 1_500_000


def test_reasoning_with_a_price_of_its_own_is_taken_out_of_output() -> None:
    price = Price(input=1.0, output=2.0, reasoning=4.0)
    assert cost_of(Tokens(input=0, output=100, reasoning=30), price) == (70 * 2 + 30 * 4) * 1000


def test_missing_usage_has_no_cost_and_not_zero() -> None:
    for missing in (Tokens(), Tokens(input=5), Tokens(output=5), Tokens(cached=5, output=5)):
        assert cost_of(missing, K3) is Unpriced.NO_USAGE
        assert known_cost(missing, K3) is None


def test_a_model_without_a_price_is_unpriced() -> None:
    assert cost_of(Tokens(input=5, output=5), None) is Unpriced.NO_PRICE


def test_a_used_kind_without_a_price_makes_the_call_unpriced() -> None:
    price = Price(input=1.0, output=1.0)
    assert cost_of(Tokens(input=1, output=1, cached=1), price) is Unpriced.NO_PRICE
    assert cost_of(Tokens(input=1, output=1, cache_write=1), price) is Unpriced.NO_PRICE
    assert cost_of(Tokens(input=1, output=1, cached=0, cache_write=0), price) == 2000


def test_a_call_that_used_nothing_costs_nothing() -> None:
    assert cost_of(Tokens(input=0, output=0), K3) == 0


def test_prices_of_fractions_of_a_cent_lose_nothing() -> None:
    assert cost_of(Tokens(input=3, output=0), Price(input=0.0125, output=0.0)) == 38  # 37.5


@given(tokens, tokens, prices)
def test_the_cost_of_two_calls_is_the_cost_of_their_sum(a: Tokens, b: Tokens, p: Price) -> None:
    kinds = ("input", "cached", "cache_write", "output", "reasoning")
    both = Tokens(**{k: getattr(a, k) + getattr(b, k) for k in kinds})
    apart = (cost_of(a, p), cost_of(b, p))
    together = cost_of(both, p)
    assert not isinstance(together, Unpriced)
    assert abs(sum(apart) - together) <= 1  # each call is rounded once, to a nanodollar


@given(tokens, prices)
def test_a_cost_is_never_negative(used: Tokens, price: Price) -> None:
    cost = cost_of(used, price)
    assert not isinstance(cost, Unpriced)
    assert cost >= 0


def test_prices_come_from_the_facts_about_models() -> None:
    price_of = prices_of(shipped())
    assert price_of("kimi-k3") == Price(input=3.0, cached=0.3, output=15.0, as_of="2026-11-01")
    assert price_of("moonshot/kimi-k3") == price_of("kimi-k3")
    assert price_of("kimi-for-coding") is None
    assert price_of("no-such-model") is None
