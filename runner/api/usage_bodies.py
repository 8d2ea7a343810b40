"""What the calls about usage take and answer, and the reports that are made of the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, Field

from runner.calls import NANO, By, Percentiles, Quality, Tokens, UsageRow
from runner.errors import ConfigError
from runner.store.ledger import Ledger, Span, days_back

MAX_DAYS = 10_000


class TokensOut(BaseModel):
    """Tokens by kind; null where no provider reported that kind."""

    input: int | None = Field(description="Billed in full: what is cached is not in it.")
    cached: int | None
    cache_write: int | None
    output: int | None
    reasoning: int | None = Field(description="A part of output.")
    total: int | None = Field(description="Input of all kinds and output.")

    @classmethod
    def of(cls, t: Tokens) -> TokensOut:
        return cls(
            input=t.input,
            cached=t.cached,
            cache_write=t.cache_write,
            output=t.output,
            reasoning=t.reasoning,
            total=t.total,
        )


class UsageOut(BaseModel):
    """Sums over calls; ``cost`` is complete when ``unpriced`` and ``no_usage`` are 0."""

    by: dict[str, str] = Field(examples=[{"group": "team", "day": "2026-11-20"}])
    calls: int
    ok: int
    tokens: TokensOut
    cost: float | None = Field(description="US dollars; null when no call has a known cost.")
    priced: int = Field(description="Calls that are in cost.")
    unpriced: int = Field(description="Calls of a model without a known price.")
    no_usage: int = Field(description="Answers whose provider did not report all usage.")

    @classmethod
    def of(cls, row: UsageRow) -> UsageOut:
        cost = row.known_cost
        return cls(
            by={str(k): v for k, v in row.by.items()},
            calls=row.calls,
            ok=row.ok,
            tokens=TokensOut.of(row.tokens),
            cost=None if cost is None else cost / NANO,
            priced=row.priced,
            unpriced=row.unpriced,
            no_usage=row.no_usage,
        )


class UsageReport(BaseModel):
    """``since`` and ``until`` are Unix seconds."""

    since: float
    until: float
    rows: list[UsageOut]
    total: UsageOut

    @classmethod
    def of(cls, span: Span, rows: Iterable[UsageRow], total: UsageRow) -> UsageReport:
        return cls(
            since=span.since,
            until=span.until,
            rows=[UsageOut.of(r) for r in rows],
            total=UsageOut.of(total),
        )


class PercentilesOut(BaseModel):
    """Milliseconds; null without answers."""

    p50: float | None
    p95: float | None
    p99: float | None


class QualityOut(BaseModel):
    """How well a provider answered (empty: all together). Rates are 0 to 1, null without data."""

    provider: str
    answered: int
    cut: int
    failed: int
    fallbacks: int
    avg_ms: float | None
    total: PercentilesOut
    first_byte: PercentilesOut
    tokens: int
    useful_tokens: int
    cost_nano: int
    priced: int
    success_rate: float | None
    fallback_rate: float | None
    tokens_per_task: float | None
    cost_per_task: float | None
    token_efficiency: float | None

    @classmethod
    def of(cls, q: Quality) -> QualityOut:
        return cls(
            provider=q.provider,
            answered=q.answered,
            cut=q.cut,
            failed=q.failed,
            fallbacks=q.fallbacks,
            avg_ms=q.avg_ms,
            total=_percentiles(q.total),
            first_byte=_percentiles(q.first_byte),
            tokens=q.tokens,
            useful_tokens=q.useful_tokens,
            cost_nano=q.cost,
            priced=q.priced,
            success_rate=q.success_rate,
            fallback_rate=q.fallback_rate,
            tokens_per_task=q.tokens_per_task,
            cost_per_task=q.cost_per_task,
            token_efficiency=q.token_efficiency,
        )

    def value(self) -> Quality:
        """The same as what targets and comparisons are made of."""
        return Quality(
            provider=self.provider,
            answered=self.answered,
            cut=self.cut,
            failed=self.failed,
            fallbacks=self.fallbacks,
            avg_ms=self.avg_ms,
            total=Percentiles(self.total.p50, self.total.p95, self.total.p99),
            first_byte=Percentiles(self.first_byte.p50, self.first_byte.p95, self.first_byte.p99),
            tokens=self.tokens,
            useful_tokens=self.useful_tokens,
            cost=self.cost_nano,
            priced=self.priced,
        )


class QualityReport(BaseModel):
    """``overall`` is null when there were no calls."""

    since: float
    until: float
    overall: QualityOut | None
    providers: list[QualityOut]


class Filter(BaseModel):
    """Which calls: of the last ``days`` days of UTC, today is one, or from ``since`` on."""

    days: int = Field(7, ge=1, le=MAX_DAYS)
    since: float | None = Field(None, ge=0, description="Unix seconds; instead of days.")
    until: float | None = Field(None, ge=0, description="Unix seconds; now when it is left out.")
    group: str = Field("", max_length=256)
    key: str = Field("", max_length=256, description="The name of a gateway key.")
    provider: str = Field("", max_length=256)
    model: str = Field("", max_length=512)

    def span(self, now: float) -> Span:
        """The calls that are meant, as of ``now``."""
        until = now if self.until is None else self.until
        since = days_back(self.days, now) if self.since is None else self.since
        return Span(since, until, self.group, self.key, self.provider, self.model)


async def usage_report(ledger: Ledger, by: tuple[By, ...], span: Span) -> UsageReport:
    """Sums by ``by`` and in total."""
    return UsageReport.of(span, await ledger.usage(by, span), await ledger.total(span))


async def quality_report(ledger: Ledger, span: Span) -> QualityReport:
    """Every provider with calls, and all of them together."""
    overall = await ledger.quality(span, by_provider=False)
    providers = await ledger.quality(span)
    return QualityReport(
        since=span.since,
        until=span.until,
        overall=QualityOut.of(overall[0]) if overall else None,
        providers=[QualityOut.of(q) for q in providers],
    )


def parse_by(text: str) -> tuple[By, ...]:
    """``"group,model"`` as what to list by. Raises: ConfigError."""
    names = list(dict.fromkeys(word for part in text.split(",") if (word := part.strip())))
    unknown = [name for name in names if name not in list(By)]
    if unknown or not names:
        raise ConfigError(
            f"usage cannot be listed by {unknown[0][:40]!r}" if unknown else "by is empty",
            hint=f"use one or more of {', '.join(By)}, with commas between them",
            code="bad_by",
        )
    return tuple(By(name) for name in names)


def _percentiles(p: Percentiles) -> PercentilesOut:
    return PercentilesOut(p50=p.p50, p95=p.p95, p99=p.p99)


def query_of(where: Filter, **more: Any) -> dict[str, Any]:
    """A filter as the query of a call."""
    return {**where.model_dump(exclude_none=True, exclude_defaults=True), **more}
