"""What of a group's answers was sent on to its bot, and what could not be."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from runner.api.bodies import ErrorOut
from runner.api.routes import MAX_INT, GroupIn, HostIn
from runner.model import Delivery, DeliveryState

router = APIRouter(
    prefix="/api", responses={code: {"model": ErrorOut} for code in (401, 404, 409, 422, 503)}
)


class DeliveryOut(BaseModel):
    """One thing that a chat was told or is to be told; ``seq`` is the ``after`` of the next page.

    Times are Unix seconds.
    """

    delivery_id: str
    seq: int
    turn_id: str
    kind: str = Field(examples=["answer", "failure", "message", "file", "question"])
    state: str = Field(examples=["pending", "sending", "delivered", "rejected"])
    target: str = Field(description="Without its query, which may hold a secret.")
    attempts: int
    next_at: float | None = Field(description="When it is tried next, while it is pending.")
    error: str = Field(description="Why the last try failed.")
    created_at: float
    finished_at: float | None

    @classmethod
    def of(cls, d: Delivery) -> DeliveryOut:
        return cls(
            delivery_id=d.id,
            seq=d.seq,
            turn_id=d.turn_id,
            kind=str(d.kind),
            state=str(d.state),
            target=urlsplit(d.target)._replace(query="", fragment="").geturl(),
            attempts=d.attempts,
            next_at=d.next_at if d.state is DeliveryState.PENDING else None,
            error=d.error,
            created_at=d.created_at,
            finished_at=d.finished_at,
        )


class DeliveryPage(BaseModel):
    deliveries: list[DeliveryOut]


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
