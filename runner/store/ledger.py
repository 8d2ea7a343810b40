"""Every query of the ledger: calls go in by batches, usage and quality come out.

Writing stands in line with the store's other transactions; reading goes beside them. The queries
are grouped sums over a span of time, ``since`` included and ``until`` not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from runner.calls import (
    DAY,
    By,
    Call,
    Failure,
    Outcome,
    Percentiles,
    Quality,
    Tokens,
    UsageRow,
)
from runner.store import schema as t
from runner.store.call_rows import booked_of, call_row, day_text, failure_row
from runner.store.store import Store

MAX_ROWS = 10_000
_PRUNED_AT_ONCE = 5_000

_c = t.calls.c
_COLUMNS: dict[By, ColumnElement[Any]] = {
    By.GROUP: _c.group_id,
    By.KEY: _c.key_name,
    By.ROUTE: _c.route,
    By.PROVIDER: _c.provider,
    By.MODEL: _c.model,
    By.DAY: _c.day,
}
# Of what a call brought: a whole answer, or the beginning of one.
_ANSWERED = or_(_c.outcome == Outcome.OK, _c.first_byte_ms.is_not(None))
_REPORTED = and_(_c.input_tokens.is_not(None), _c.output_tokens.is_not(None))
_TOKENS = (
    func.coalesce(_c.input_tokens, 0)
    + func.coalesce(_c.cached_tokens, 0)
    + func.coalesce(_c.cache_write_tokens, 0)
    + func.coalesce(_c.output_tokens, 0)
)


@dataclass(frozen=True, slots=True)
class Span:
    """Calls with ``since <= at < until`` that match; an empty filter matches all."""

    since: float
    until: float = math.inf
    group: str = ""
    key: str = ""
    provider: str = ""
    model: str = ""


def days_back(days: int, now: float) -> float:
    """The start of the UTC day from which today is the ``days``-th."""
    return now // DAY * DAY - (days - 1) * DAY


class Ledger:
    """Over an open :class:`Store`, and closed with it. It keeps no state of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(self, calls: Sequence[Call]) -> None:
        """Book calls in one transaction. Raises: TemporaryError."""

        def work(c: Connection) -> None:
            c.execute(insert(t.calls), [call_row(call) for call in calls])
            failed = [failure_row(call, f) for call in calls for f in _failures_of(call)]
            if failed:
                c.execute(insert(t.failures), failed)

        if calls:
            await self._store.transact(work)

    async def prune(self, before: float) -> int:
        """Forget some calls older than ``before``; how many. Call again until it is 0."""

        def work(c: Connection) -> int:
            gone = 0
            for table in (t.calls, t.failures):
                old = (
                    select(table.c.seq)
                    .where(table.c.at < before)
                    .order_by(table.c.at)
                    .limit(_PRUNED_AT_ONCE)
                )
                gone += c.execute(delete(table).where(table.c.seq.in_(old))).rowcount
            return gone

        return await self._store.transact(work)

    async def booked_after(
        self, seq: int, since: float, limit: int = MAX_ROWS
    ) -> tuple[list[Call], int]:
        """Calls booked after ``seq`` (0: from the first) and made since ``since``, in that order.

        With the ``seq`` to go on from, the same one when there is nothing new. The calls hold what
        budgets count: time, group, key, tokens and cost.
        """
        query = select(t.calls).where(_c.seq > seq, _c.at >= since).order_by(_c.seq).limit(limit)

        def work(c: Connection) -> tuple[list[Call], int]:
            rows = c.execute(query).mappings().all()
            return [booked_of(r) for r in rows], int(rows[-1]["seq"]) if rows else seq

        return await self._store.read(work)

    async def total(self, span: Span) -> UsageRow:
        """Sums over all calls of the span, for instance of one group since the month began."""
        rows = await self.usage((), span)
        return rows[0] if rows else UsageRow({})

    async def usage(self, by: Sequence[By], span: Span) -> list[UsageRow]:
        """Sums for each combination of ``by``, days first to last, then the dearest first.

        At most :data:`MAX_ROWS` rows.
        """
        keys = [_COLUMNS[b].label(f"by_{b}") for b in by]
        cost = func.coalesce(func.sum(_c.cost_nano), 0)
        tokens = func.coalesce(func.sum(_TOKENS), 0)
        priced = _c.cost_nano.is_not(None)
        order = [_COLUMNS[By.DAY]] if By.DAY in by else []
        query = (
            select(
                *keys,
                func.count().label("calls"),
                _count(_c.outcome == Outcome.OK).label("ok"),
                func.sum(_c.input_tokens).label("input"),
                func.sum(_c.cached_tokens).label("cached"),
                func.sum(_c.cache_write_tokens).label("cache_write"),
                func.sum(_c.output_tokens).label("output"),
                func.sum(_c.reasoning_tokens).label("reasoning"),
                cost.label("cost"),
                _count(priced).label("priced"),
                _count(and_(~priced, _REPORTED)).label("unpriced"),
                _count(and_(~priced, _ANSWERED, ~_REPORTED)).label("no_usage"),
            )
            .where(*_where(span))
            .group_by(*(_COLUMNS[b] for b in by))
            .order_by(*order, cost.desc(), tokens.desc(), *keys)
            .limit(MAX_ROWS)
        )

        def work(c: Connection) -> list[UsageRow]:
            return [
                UsageRow(
                    by={b: _shown(b, r[f"by_{b}"]) for b in by},
                    calls=r["calls"],
                    ok=int(r["ok"]),
                    tokens=Tokens(
                        *(
                            None if r[kind] is None else int(r[kind])
                            for kind in ("input", "cached", "cache_write", "output", "reasoning")
                        )
                    ),
                    cost=int(r["cost"]),
                    priced=int(r["priced"]),
                    unpriced=int(r["unpriced"]),
                    no_usage=int(r["no_usage"]),
                )
                for r in c.execute(query).mappings()
                if r["calls"]
            ]

        return await self._store.read(work)

    async def quality(self, span: Span, *, by_provider: bool = True) -> list[Quality]:
        """How well each provider answered, the busiest first; or all of them together as one.

        For one provider, ``failed`` counts its failed attempts, also where another one answered.
        """

        def work(c: Connection) -> list[Quality]:
            sums = _quality_sums(c, span, by_provider)
            times = {
                name: _percentiles(c, span, column, by_provider)
                for name, column in (("total", _c.total_ms), ("first", _c.first_byte_ms))
            }
            failed = _failed(c, span) if by_provider else {}
            found = []
            for name in {**sums, **failed}:
                s = sums.get(name, {})
                one = Quality(
                    provider=name,
                    answered=int(s.get("answered", 0)),
                    cut=int(s.get("cut", 0)),
                    failed=failed.get(name, 0) if by_provider else int(s.get("failed", 0)),
                    fallbacks=int(s.get("fallbacks", 0)),
                    avg_ms=s.get("avg_ms"),
                    total=times["total"].get(name, Percentiles()),
                    first_byte=times["first"].get(name, Percentiles()),
                    tokens=int(s.get("tokens", 0)),
                    useful_tokens=int(s.get("useful", 0)),
                    cost=int(s.get("cost", 0)),
                    priced=int(s.get("priced", 0)),
                )
                if one.answered or one.cut or one.failed:
                    found.append(one)
            return sorted(found, key=lambda q: (-q.answered - q.cut - q.failed, q.provider))

        return await self._store.read(work)


def _failures_of(call: Call) -> tuple[Failure, ...]:
    """A call that failed has failed at its provider, even if nothing more is known."""
    if call.failures or call.outcome is not Outcome.FAILED or not call.provider:
        return call.failures
    return (Failure(call.provider, call.model, "failed"),)


def _quality_sums(c: Connection, span: Span, by_provider: bool) -> dict[str, dict[str, Any]]:
    name = _c.provider if by_provider else literal("")
    ok = _c.outcome == Outcome.OK
    query = select(
        name.label("name"),
        _count(ok).label("answered"),
        _count(_c.outcome == Outcome.CUT).label("cut"),
        _count(_c.outcome == Outcome.FAILED).label("failed"),
        _count(and_(ok, _c.fallback)).label("fallbacks"),
        func.avg(case((ok, _c.total_ms))).label("avg_ms"),
        func.coalesce(func.sum(_TOKENS), 0).label("tokens"),
        func.coalesce(func.sum(case((ok, _TOKENS))), 0).label("useful"),
        func.coalesce(func.sum(case((ok, _c.cost_nano))), 0).label("cost"),
        _count(and_(ok, _c.cost_nano.is_not(None))).label("priced"),
    ).where(*_where(span))
    if by_provider:
        query = query.where(_c.provider != "").group_by(_c.provider)
    return {str(r["name"]): dict(r) for r in c.execute(query).mappings()}


def _percentiles(
    c: Connection, span: Span, column: ColumnElement[Any], by_provider: bool
) -> dict[str, Percentiles]:
    """Nearest rank: the value below or at which that share of the answered calls lies."""
    part = [_c.provider] if by_provider else []
    name = _c.provider if by_provider else literal("")
    ranked = (
        select(
            name.label("name"),
            column.label("ms"),
            func.row_number().over(partition_by=part, order_by=column).label("rank"),
            func.count().over(partition_by=part).label("n"),
        )
        .where(*_where(span), _c.outcome == Outcome.OK, column.is_not(None))
        .subquery()
    )
    at = ranked.c

    def value(percent: int) -> ColumnElement[Any]:
        return func.max(case((at.rank == (at.n * percent + 99) // 100, at.ms)))

    query = select(at.name, value(50), value(95), value(99)).group_by(at.name)
    return {str(r[0]): Percentiles(r[1], r[2], r[3]) for r in c.execute(query)}


def _failed(c: Connection, span: Span) -> dict[str, int]:
    f = t.failures.c
    query = select(f.provider, func.count()).where(*_where(span, f)).group_by(f.provider)
    return {str(name): int(n) for name, n in c.execute(query).all()}


def _where(
    span: Span, columns: ReadOnlyColumnCollection[str, Column[Any]] = _c
) -> list[ColumnElement[bool]]:
    found = [columns.at >= span.since]
    if math.isfinite(span.until):
        found.append(columns.at < span.until)
    found += [
        column == wanted
        for column, wanted in (
            (columns.group_id, span.group),
            (columns.key_name, span.key),
            (columns.provider, span.provider),
            (columns.model, span.model),
        )
        if wanted
    ]
    return found


def _count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _shown(by: By, value: Any) -> str:
    return day_text(value) if by is By.DAY else str(value)
