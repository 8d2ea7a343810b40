"""The calls that look at turns, try failed ones again, and bring a message into a running one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from runner.api.bodies import ErrorOut, MessageIn
from runner.api.routes import CHANNEL, GroupIn, HostIn
from runner.api.turn_bodies import RetriedOut, SteeredOut, TurnList, TurnOut
from runner.host.intake import Incoming
from runner.model import TurnState

router = APIRouter(
    prefix="/api",
    tags=["turns"],
    responses={code: {"model": ErrorOut} for code in (401, 403, 404, 409, 413, 422, 429, 503)},
)


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
    done = await host.intake.steer(
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
