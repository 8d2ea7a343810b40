"""``nanokimi monitor``: providers side by side, costs by day, quality against the targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from runner.api.usage_bodies import Filter, QualityOut, QualityReport, UsageOut
from runner.calls import DAY, By
from runner.cli.context import context_of, run
from runner.cli.output import note, out, plain, show_json, table
from runner.cli.usage import (
    COUNTS,
    DaysOption,
    JsonOption,
    ask_quality,
    ask_usage,
    cost,
    counts,
    name,
)
from runner.cli.wide import show_wide
from runner.errors import NotFoundError
from runner.gateway.quality import ALL, Comparison, Miss, compare, misses
from runner.settings.problem import shorten
from runner.settings.tables import Targets

app = typer.Typer(
    help="How providers do: quality and costs of recorded calls.", no_args_is_help=True
)

_NO_DATA = "no data"


@app.command("providers")
def providers(
    ctx: typer.Context,
    side_by_side: Annotated[
        bool, typer.Option("--compare", help="Each provider against --new, or the busiest one.")
    ] = False,
    new: Annotated[str, typer.Option("--new", help="The provider to compare.")] = "",
    old: Annotated[str, typer.Option("--old", help="Only with this one.")] = "",
    days: DaysOption = 7,
    as_json: JsonOption = False,
) -> None:
    """Every provider: success, speed, tokens and cost of a call, fallbacks."""
    context = context_of(ctx)
    report = run(lambda: ask_quality(context, Filter(days=days)))
    missed = _misses(report, context.settings().gateway.targets)
    pairs = _pairs(report.providers, new, old) if side_by_side or new or old else []
    if as_json:
        show_json(
            {
                **report.model_dump(),
                "comparison": [asdict(p) for p in pairs],
                "warnings": [asdict(m) for m in missed],
            }
        )
        return
    if report.overall is None:
        note("no calls in this time")
        return
    shown = table(
        "PROVIDER", "ANSWERS", "SUCCESS", "AVG TIME", "FALLBACKS", "TOKENS/CALL", "COST/CALL"
    )
    for q in [*report.providers, report.overall]:
        shown.add_row(
            name(q.provider or ALL),
            f"{q.answered:,}",
            percent(q.success_rate),
            seconds(q.avg_ms),
            percent(q.fallback_rate),
            _NO_DATA if q.tokens_per_task is None else f"{q.tokens_per_task:,.0f}",
            dollars(q.cost_per_task),
        )
    show_wide(shown)
    if pairs:
        _show_pairs(pairs)
    elif side_by_side:
        note("only one provider has calls: there is nothing to compare it with")
    _warn(missed)


@app.command("costs")
def costs(ctx: typer.Context, days: DaysOption = 7, as_json: JsonOption = False) -> None:
    """Cost of each day, and on average."""
    context = context_of(ctx)
    report = run(lambda: ask_usage(context, (By.DAY,), Filter(days=days)))
    per_day = None if report.total.cost is None else report.total.cost / days
    if as_json:
        show_json({**report.model_dump(), "days": days, "cost_per_day": per_day})
        return
    found = {row.by[By.DAY]: row for row in report.rows}
    shown = table("DAY", *COUNTS)
    for n in range(days):
        day = datetime.fromtimestamp(report.since + n * DAY, UTC).date().isoformat()
        if row := found.get(day):
            shown.add_row(day, *counts(row))
        elif days <= 31:
            shown.add_row(day, "0", *("-" for _ in COUNTS[2:]), "$0.0000")
    shown.add_row("total", *counts(report.total))
    show_wide(shown)
    out.print(f"\ncost_per_day: {_per_day(per_day, report.total)}")


@app.command("quality")
def quality(
    ctx: typer.Context,
    provider: Annotated[str, typer.Option("--provider", help="Only this provider.")] = "",
    days: DaysOption = 7,
    as_json: JsonOption = False,
) -> None:
    """Success and latency of each provider, with the targets that were missed."""
    context = context_of(ctx)
    report = run(lambda: ask_quality(context, Filter(days=days)))
    found = [q for q in report.providers if provider in ("", q.provider)]
    if provider and not found:
        known = ", ".join(q.provider for q in report.providers) or "none"
        raise NotFoundError(
            f"no calls to a provider {provider!r} in this time", hint=f"with calls: {known}"
        )
    overall = [report.overall] if report.overall is not None and not provider else []
    targets = context.settings().gateway.targets
    missed = [m for q in [*found, *overall] for m in misses(q.value(), targets)]
    if as_json:
        rows = [q.model_dump() for q in [*found, *overall]]
        show_json({"quality": rows, "warnings": [asdict(m) for m in missed]})
        return
    if not found and not overall:
        note("no calls in this time")
        return
    shown = table(
        "PROVIDER", "SUCCESS", "ANSWERED", "CUT", "FAILED", "FIRST BYTE p50 / p95",
        "TOTAL p50 / p95 / p99", "EFFICIENCY",
    )  # fmt: skip
    for q in [*found, *overall]:
        first, total = q.first_byte, q.total
        shown.add_row(
            name(q.provider or ALL),
            percent(q.success_rate),
            f"{q.answered:,}",
            f"{q.cut:,}",
            f"{q.failed:,}",
            f"{seconds(first.p50)} / {seconds(first.p95)}",
            f"{seconds(total.p50)} / {seconds(total.p95)} / {seconds(total.p99)}",
            percent(q.token_efficiency),
        )
    show_wide(shown)
    _warn(missed)


def percent(rate: float | None) -> str:
    return _NO_DATA if rate is None else f"{rate:.1%}"


def seconds(ms: float | None) -> str:
    return _NO_DATA if ms is None else f"{ms / 1000:.2f} s"


def dollars(amount: float | None) -> str:
    return _NO_DATA if amount is None else f"${amount:.6f}"


def _per_day(per_day: float | None, total: UsageOut) -> str:
    if per_day is None:
        return cost(total)
    missing = total.unpriced + total.no_usage
    return f"${per_day:,.4f}" + (
        f" (calls of unknown cost, not in it: {missing})" if missing else ""
    )


def _misses(report: QualityReport, targets: Targets) -> list[Miss]:
    rows = [*report.providers, *([report.overall] if report.overall else [])]
    return [m for q in rows for m in misses(q.value(), targets)]


def _pairs(found: Iterable[QualityOut], new: str, old: str) -> list[Comparison]:
    rows = {q.provider: q.value() for q in found}  # the busiest first
    for asked in (new, old):
        if asked and asked not in rows:
            raise NotFoundError(
                f"no calls to a provider {asked!r} in this time",
                hint=f"with calls: {', '.join(rows) or 'none'}",
            )
    first = new or next((known for known in rows if known != old), "")
    others = [known for known in rows if known != first and old in ("", known)]
    return [compare(rows[first], rows[other]) for other in others]


def _show_pairs(pairs: Iterable[Comparison]) -> None:
    shown = table("NEW", "OLD", "COST SAVING", "FASTER BY", "SUCCESS", "TOKENS NEW/OLD")
    for p in pairs:
        points = p.success_rate_change
        shown.add_row(
            name(p.new),
            name(p.old),
            _NO_DATA if p.cost_saving is None else f"{p.cost_saving:+.1f} %",
            _NO_DATA if p.speed_change is None else f"{p.speed_change:+.1f} %",
            _NO_DATA if points is None else f"{points:+.1f} points",
            _NO_DATA if p.tokens_efficiency is None else f"{p.tokens_efficiency:.2f}",
        )
    out.print()
    show_wide(shown, names=2)


def _warn(missed: Iterable[Miss]) -> None:
    for miss in missed:
        out.print("[yellow]warning:[/]", plain(shorten(miss.text, 200)))
