"""``/api/usage``: what was spent, by whom and on what, and how well providers answered."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from runner.api.bodies import ErrorOut
from runner.api.routes import HostIn
from runner.api.usage_bodies import (
    Filter,
    QualityReport,
    UsageReport,
    parse_by,
    quality_report,
    usage_report,
)
from runner.store.ledger import Ledger

router = APIRouter(
    prefix="/api/usage", responses={code: {"model": ErrorOut} for code in (401, 422, 503)}
)


async def ledger_of(host: HostIn) -> Ledger:
    return Ledger(host.store)


LedgerIn = Annotated[Ledger, Depends(ledger_of)]
FilterIn = Annotated[Filter, Query()]


@router.get("")
async def get_usage(ledger: LedgerIn, where: FilterIn, by: str = "group,model,day") -> UsageReport:
    """Calls, tokens by kind and cost; `by` is a list of group, key, route, provider, model, day."""
    return await usage_report(ledger, parse_by(by), where.span(time.time()))


@router.get("/quality")
async def get_quality(ledger: LedgerIn, where: FilterIn) -> QualityReport:
    """Success rate, latency and fallbacks of each provider; filters on the model apply too."""
    return await quality_report(ledger, where.span(time.time()))
