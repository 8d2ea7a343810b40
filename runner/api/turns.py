"""The calls that look at turns, try failed ones again, and bring a message into a running one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from runner.api.bodies import ErrorOut, MessageIn
from runner.api.routes import CHANNEL, GroupIn, HostIn
from runner.host.app import Incoming
from runner.host.progress import usage_json
from runner.model import Turn, TurnState

router = APIRouter(
    prefix="/api",
    tags=["turns"],
    responses={code: {"model": ErrorOut} for code in (401, 403, 404, 409, 413, 422, 429, 503)},
)


class TurnOut(BaseModel):
    """A turn. ``error`` says why it failed; times are Unix seconds."""

    turn_id: str
    state: str = Field(examples=["running", "done", "failed", "cancelled"])
    attempt: int
    text: str
    error: dict[str, Any] | None
    usage: dict[str, int | None] | None
    started_at: float
    finished_at: float | None
    held_since: float | None = Field(description="When it began to wait for a model or a login.")

    @classmethod
    def of(cls, turn: Turn) -> TurnOut:
        return cls(
            turn_id=turn.id,
            state=str(turn.state),
            attempt=turn.attempt,
            text=turn.text,
            error=turn.error,
            usage=usage_json(turn.usage),
            started_at=turn.started_at,
            finished_at=turn.finished_at,
            held_since=turn.held_since,
        )


class TurnList(BaseModel):
    turns: list[TurnOut]


class RetriedOut(BaseModel):
    """Messages that wait again, and the failed turns that they were of."""

    turn_ids: list[str]
    message_ids: list[str]


class SteeredOut(BaseModel):
    """``steered``: the message joined the turn ``turn_id``. Else that turn ended just then, and the
    next one has the message."""

    message_id: str
    turn_id: str
    steered: bool


@router.get("/groups/{id}/turns")
async def get_turns(
    host: HostIn,
    group: GroupIn,
    state: TurnState | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> TurnList:
    """The group's newest turns, newest first; with `state` only those."""
    return TurnList(turns=[TurnOut.of(t) for t in await host.turns.page(group, state, limit)])


@router.post("/groups/{id}/turns/{turn}/retry")
async def retry_turn(host: HostIn, group: GroupIn, turn: str) -> RetriedOut:
    """Have the messages of a failed turn answered by a new one."""
    done = await host.retry(group, turn)
    return RetriedOut(turn_ids=list(done.turn_ids), message_ids=list(done.message_ids))


@router.post("/groups/{id}/retry")
async def retry_all(host: HostIn, group: GroupIn) -> RetriedOut:
    """Have the messages of all failed turns answered, in their order."""
    done = await host.retry(group, None)
    return RetriedOut(turn_ids=list(done.turn_ids), message_ids=list(done.message_ids))


@router.post("/groups/{id}/steer")
async def steer(body: MessageIn, host: HostIn, group: GroupIn) -> SteeredOut:
    """Bring a message into the turn that is running. 409 when none is."""
    done = await host.steer(
        Incoming(
            group=group,
            text=body.text,
            channel=CHANNEL,
            sender=body.sender,
            external_id=body.external_id,
            metadata=body.metadata,
            sender_id=body.sender_id,
            operator=body.operator,
        )
    )
    return SteeredOut(message_id=done.message_id, turn_id=done.turn_id, steered=done.joined)
