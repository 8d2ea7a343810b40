"""What of a group's answers was sent on to its bot, and what could not be."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from runner.api.bodies import ErrorOut
from runner.api.delivery_bodies import DeliveryOut, DeliveryPage
from runner.api.routes import MAX_INT, GroupIn, HostIn
from runner.model import DeliveryState

router = APIRouter(
    prefix="/api", responses={code: {"model": ErrorOut} for code in (401, 404, 409, 422, 503)}
)


@router.get("/groups/{id}/deliveries", tags=["deliveries"])
async def get_deliveries(
    host: HostIn,
    group: GroupIn,
    state: DeliveryState | None = None,
    after: Annotated[int, Query(ge=0, le=MAX_INT)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DeliveryPage:
    """The group's deliveries in the order in which they are sent."""
    found = await host.deliveries.page(group, state, after=after, limit=limit)
    return DeliveryPage(deliveries=[DeliveryOut.of(d) for d in found])


@router.post("/groups/{id}/deliveries/{delivery}/retry", tags=["deliveries"])
async def retry_delivery(
    host: HostIn, group: GroupIn, delivery: Annotated[str, Path(max_length=100)]
) -> DeliveryOut:
    """Have a rejected delivery tried again, for as long as a new one. 409 when it is not."""
    again = await host.deliveries.retry(group, delivery)
    host.outbox.wake(group)
    return DeliveryOut.of(again)
