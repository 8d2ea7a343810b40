"""Calls as rows of the ledger. What came from outside is made fit for a database, never refused."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import date
from typing import Any

from sqlalchemy import RowMapping

from runner.calls import DAY, Call, Failure, Outcome, Tokens

_MAX_TEXT = 512
_MAX_COUNT = 10**15  # more than any call has, and thousands of them sum up within 64 bits


def call_row(call: Call) -> dict[str, Any]:
    """One call as values of the ``calls`` table."""
    tokens = call.tokens
    return {
        "at": call.at,
        "day": int(call.at // DAY),
        "group_id": _text(call.group),
        "key_name": _text(call.key),
        "route": _text(call.route),
        "provider": _text(call.provider),
        "model": _text(call.model),
        "input_tokens": _count(tokens.input),
        "cached_tokens": _count(tokens.cached),
        "cache_write_tokens": _count(tokens.cache_write),
        "output_tokens": _count(tokens.output),
        "reasoning_tokens": _count(tokens.reasoning),
        "price": asdict(call.price) if call.price is not None else None,
        "cost_nano": _count(call.cost),
        "first_byte_ms": None if call.first_byte_ms is None else _ms(call.first_byte_ms),
        "total_ms": _ms(call.total_ms),
        "outcome": str(call.outcome),
        "fallback": call.fallback,
        "attempts": min(call.attempts, 1 << 30),
    }


def failure_row(call: Call, failure: Failure) -> dict[str, Any]:
    """One failed attempt as values of the ``failures`` table."""
    return {
        "at": call.at,
        "group_id": _text(call.group),
        "key_name": _text(call.key),
        "provider": _text(failure.provider),
        "model": _text(failure.model),
        "type": _text(failure.type),
    }


def booked_of(r: RowMapping) -> Call:
    """The part of a call that budgets count."""
    return Call(
        at=r["at"],
        outcome=Outcome(r["outcome"]),
        group=r["group_id"],
        key=r["key_name"],
        tokens=Tokens(
            r["input_tokens"],
            r["cached_tokens"],
            r["cache_write_tokens"],
            r["output_tokens"],
            r["reasoning_tokens"],
        ),
        cost=r["cost_nano"],
    )


def day_text(day: int) -> str:
    """Days since 1970-01-01 as ``2026-11-20``."""
    return date.fromordinal(date(1970, 1, 1).toordinal() + day).isoformat()


def _text(value: str) -> str:
    return value[:_MAX_TEXT].replace("\0", "").encode("utf-8", "replace").decode()


def _count(value: int | None) -> int | None:
    return value if value is not None and 0 <= value <= _MAX_COUNT else None


def _ms(value: float) -> float:
    return round(value, 3) if math.isfinite(value) and value >= 0 else 0.0
