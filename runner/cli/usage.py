"""``nanokimi usage``: calls, tokens and cost, by whom and on what."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from runner.api.usage_bodies import (
    MAX_DAYS,
    Filter,
    QualityReport,
    UsageOut,
    UsageReport,
    parse_by,
    quality_report,
    query_of,
    usage_report,
)
from runner.calls import By
from runner.cli.connection import offline_store, serving_api
from runner.cli.context import Context, context_of, run
from runner.cli.output import note, plain, show_json, table
from runner.cli.wide import show_wide
from runner.settings.problem import shorten
from runner.store.ledger import Ledger

DaysOption = Annotated[
    int, typer.Option("--days", min=1, max=MAX_DAYS, help="Days of UTC; today is one.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]


def usage(
    ctx: typer.Context,
    by: Annotated[
        str, typer.Option("--by", help="Any of group, key, route, provider, model, day.")
    ] = "group,model,day",
    days: DaysOption = 7,
    group: Annotated[str, typer.Option("--group", help="Only this group.")] = "",
    key: Annotated[str, typer.Option("--key", help="Only the gateway key of this name.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Calls, tokens and cost of the last days."""
    context = context_of(ctx)
    wanted = parse_by(by)
    where = Filter(days=days, group=group, key=key)
    report = run(lambda: ask_usage(context, wanted, where))
    if as_json:
        show_json(report.model_dump())
        return
    if not report.rows:
        note("no calls in this time")
        return
    shown = table(*(b.upper() for b in wanted), *COUNTS)
    for row in report.rows:
        shown.add_row(*(name(row.by[b]) for b in wanted), *counts(row))
    if len(report.rows) > 1:
        shown.add_row("total", *("" for _ in wanted[1:]), *counts(report.total))
    show_wide(shown, names=len(wanted))


COUNTS = ("CALLS", "INPUT", "CACHED", "WRITTEN", "OUTPUT", "REASONING", "COST")


def counts(row: UsageOut) -> list[str]:
    """The cells below :data:`COUNTS`; ``-`` is what nobody reported."""
    t = row.tokens
    kinds = (t.input, t.cached, t.cache_write, t.output, t.reasoning)
    return [f"{row.calls:,}", *("-" if n is None else f"{n:,}" for n in kinds), cost(row)]


def cost(row: UsageOut) -> str:
    """Dollars, and how many calls are not in them."""
    parts = [] if row.cost is None else [f"${row.cost:,.4f}"]
    if row.unpriced:
        parts.append(f"{row.unpriced} unpriced")
    if row.no_usage:
        parts.append(f"{row.no_usage} without usage")
    return " + ".join(parts)


def name(text: str) -> str:
    """A group, model or provider for a terminal: clients may have called it anything."""
    return plain(shorten(text or "-"))


# Where a host serves, it is asked; where none does, the store is read, and nothing is started.


async def ask_usage(context: Context, by: tuple[By, ...], where: Filter) -> UsageReport:
    """Usage of the data directory's host."""
    async with serving_api(context) as api:
        if api is not None:
            params = query_of(where, by=",".join(by))
            told = await api.call("GET", "/api/usage", params=params)
            return UsageReport.model_validate(told)
    async with _ledger(context) as ledger:
        return await usage_report(ledger, by, where.span(time.time()))


async def ask_quality(context: Context, where: Filter) -> QualityReport:
    """Quality of the providers of the data directory's host."""
    async with serving_api(context) as api:
        if api is not None:
            told = await api.call("GET", "/api/usage/quality", params=query_of(where))
            return QualityReport.model_validate(told)
    async with _ledger(context) as ledger:
        return await quality_report(ledger, where.span(time.time()))


@asynccontextmanager
async def _ledger(context: Context) -> AsyncIterator[Ledger]:
    async with offline_store(context) as store:
        yield Ledger(store)
