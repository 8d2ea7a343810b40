"""What a call costs: tokens by kind times the price of each kind, or why nobody can say. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from runner.calls import NANO, Price, Tokens
from runner.settings.models import Models

PriceOf = Callable[[str], Price | None]
"""The price of a model by its upstream id; ``None`` when there is none."""

_MILLION = 10**6


class Unpriced(StrEnum):
    """Why a call has no cost. Zero is a cost; these are not zero."""

    NO_USAGE = "no_usage"  # input or output was not reported
    NO_PRICE = "no_price"  # the model, or a kind of token that it used, has no price


def prices_of(models: Models) -> PriceOf:
    """The prices that are among the facts about models."""

    def price_of(model: str) -> Price | None:
        facts = models.find(model)
        if facts is None or facts.price is None:
            return None
        found = facts.price
        return Price(
            input=found.input,
            output=found.output,
            cached=found.cached,
            as_of=found.since.isoformat(),
        )

    return price_of


def cost_of(tokens: Tokens, price: Price | None) -> int | Unpriced:
    """Nanodollars, rounded once.

    Kinds that were not reported beside input and output count as none: a provider that reports no
    cache hits bills none. A kind that was used and has no price makes the whole call unpriced.
    """
    if tokens.input is None or tokens.output is None:
        return Unpriced.NO_USAGE
    if price is None:
        return Unpriced.NO_PRICE
    apart = min(tokens.reasoning or 0, tokens.output) if price.reasoning is not None else 0
    kinds = (
        (tokens.input, price.input),
        (tokens.cached or 0, price.cached),
        (tokens.cache_write or 0, price.cache_write),
        (tokens.output - apart, price.output),
        (apart, price.reasoning),
    )
    total = 0
    for count, dollars in kinds:
        if not count:
            continue
        if dollars is None:
            return Unpriced.NO_PRICE
        total += count * round(dollars * NANO)  # nanodollars for a million, exact to nine digits
    return (total + _MILLION // 2) // _MILLION


def known_cost(tokens: Tokens, price: Price | None) -> int | None:
    """As :func:`cost_of`, ``None`` for any reason: what a ledger keeps."""
    cost = cost_of(tokens, price)
    return None if isinstance(cost, Unpriced) else cost
