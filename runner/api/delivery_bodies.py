"""What the calls about deliveries answer."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from runner.model import Delivery, DeliveryState


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
