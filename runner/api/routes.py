"""The calls below ``/api``: each takes apart a request, asks the host, and puts the answer down."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from runner.api import sse
from runner.api.bodies import (
    Cancelled,
    ErrorOut,
    GroupList,
    GroupOut,
    MessageAccepted,
    MessageOut,
    MessagePage,
    Stopped,
    TurnResult,
)
from runner.api.uploads import Upload, Uploads, message_body
from runner.errors import (
    ENGINE_SILENT,
    ConflictError,
    ImageMissingError,
    LoginRequiredError,
    NotFoundError,
)
from runner.host.app import Host
from runner.host.events import ends_turn
from runner.host.intake import Incoming
from runner.model import DeliveryState, Group
from runner.store import Accepted

CHANNEL = "http"
MAX_WAIT = 3600.0
MAX_INT = 2**63 - 1

router = APIRouter(
    prefix="/api",
    responses={code: {"model": ErrorOut} for code in (401, 403, 404, 409, 413, 422, 429, 503)},
)


async def host_of(request: Request) -> Host:
    host = request.app.state.host
    assert isinstance(host, Host)
    return host


async def group_of(
    group: Annotated[str, Path(alias="id", description="The group's id, percent-encoded.")],
) -> str:
    """The group id of the path. A ``%2F`` in it came through routing as NUL (see ``app``)."""
    return group.replace("\0", "/")


HostIn = Annotated[Host, Depends(host_of)]
GroupIn = Annotated[str, Depends(group_of)]


async def upload_of(request: Request, host: HostIn, group: GroupIn) -> Upload:
    uploads = request.app.state.uploads
    assert isinstance(uploads, Uploads)
    return await uploads.read(request, host, group)


UploadIn = Annotated[Upload, Depends(upload_of)]


@router.post(
    "/groups/{id}/messages", status_code=202, response_model=None, openapi_extra=message_body()
)
async def post_message(
    upload: UploadIn,
    host: HostIn,
    group: GroupIn,
    request: Request,
    wait: Annotated[float | None, Query(ge=0, le=MAX_WAIT)] = None,
) -> Response:
    """Send a message to a group's agent.

    Answers 202 once the message is on disk. With `Accept: text/event-stream`: its events until
    its turn has ended. With `?wait=SECONDS`: 200 and the turn's result, or 202 when time is up.
    """
    mark = host.events.mark()
    body = upload.body
    accepted = await upload.accept(
        host,
        Incoming(
            group=group,
            text=body.text,
            channel=CHANNEL,
            sender=body.sender,
            external_id=body.external_id,
            direct=body.direct,
            metadata=body.metadata,
            sender_id=body.sender_id,
            operator=body.operator,
            reply_to_agent=body.reply_to_agent,
            reply_url=body.reply_url,
        ),
    )
    if "text/event-stream" in request.headers.get("accept", ""):
        return sse.respond(sse.of_message(host, accepted, mark))
    if wait and (result := await _result(host, accepted, mark, wait)) is not None:
        return JSONResponse(result.model_dump())
    told = MessageAccepted(
        message_id=accepted.message.id,
        group=group,
        duplicate=accepted.duplicate,
        wakes=accepted.message.wakes,
        command=accepted.command,
        hint=_hint(host, accepted),
    )
    return JSONResponse(told.model_dump(), 202)


@router.get("/groups/{id}/messages")
async def get_messages(
    host: HostIn,
    group: GroupIn,
    after: Annotated[int, Query(ge=0, le=MAX_INT)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> MessagePage:
    """The group's messages with their states, in the order of their acceptance."""
    found = await host.store.messages(group, after=after, limit=limit)
    return MessagePage(messages=[MessageOut.of(m) for m in found])


@router.get("/groups/{id}/events", response_model=None)
async def get_events(
    host: HostIn,
    group: GroupIn,
    last_event_id: Annotated[int | None, Header(ge=0, le=MAX_INT)] = None,
) -> Response:
    """What happens in the group, as server-sent events; resumes after `Last-Event-ID`."""
    await host.store.group(group)
    return sse.respond(sse.of_group(host.events, group, last_event_id))


@router.post("/groups/{id}/cancel")
async def cancel(
    host: HostIn, group: GroupIn, turn_id: Annotated[str | None, Query(max_length=100)] = None
) -> Cancelled:
    """Cancel the turn that is running; its messages are dropped. 409 when none is.

    With `turn_id`: only if that turn is the one.
    """
    turn = await host.cancel(group, turn_id)
    if turn is None:
        raise ConflictError("nothing is running in this group", code="nothing_running")
    return Cancelled(turn_id=turn.id, cancelled=True)


@router.post("/groups/{id}/reset")
async def reset(host: HostIn, group: GroupIn) -> GroupOut:
    """Forget the conversation. The files in the workspace stay."""
    await host.reset(group)
    return await _show(host, await host.store.group(group))


@router.post("/groups/{id}/stop")
async def stop(host: HostIn, group: GroupIn) -> Stopped:
    """End the group's sandbox; its next message starts a new one, which remembers."""
    return Stopped(stopped=await host.stop_sandbox(group))


@router.get("/groups")
async def list_groups(host: HostIn) -> GroupList:
    """Every group."""
    return GroupList(groups=[await _show(host, g) for g in await host.store.groups()])


@router.get("/groups/{id}")
async def get_group(host: HostIn, group: GroupIn) -> GroupOut:
    """One group."""
    return await _show(host, await host.store.group(group))


@router.put("/groups/{id}")
async def put_group(host: HostIn, group: GroupIn) -> GroupOut:
    """Make a group, if it is not there yet."""
    return await _show(host, await host.put_group(group))


@router.delete("/groups/{id}", status_code=204)
async def delete_group(host: HostIn, group: GroupIn) -> None:
    """Remove a group with its messages, memory and files, also while it works."""
    await host.delete_group(group)


async def _show(host: Host, group: Group) -> GroupOut:
    return GroupOut.of(
        group,
        host.sandbox_state(group.id),
        host.running(group.id),
        await host.store.count_waiting(group.id),
        owner=host.owner_elsewhere(group),
        held_for=host.held_for(group.id),
        failed=await host.turns.count_dead(group.id),
        rejected=(await host.deliveries.counts(group.id))[DeliveryState.REJECTED],
    )


async def _result(host: Host, accepted: Accepted, mark: int, wait: float) -> TurnResult | None:
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(wait),
            contextlib.aclosing(sse.of_message(host, accepted, mark)) as log,
        ):
            async for event in log:
                if ends_turn(event):
                    if event.data.get("code") == "group_deleted":
                        raise NotFoundError("the group was deleted")
                    turn = await host.store.turn(str(event.turn_id))
                    return TurnResult.of(accepted.message.id, turn, accepted.command)
    return None


def _hint(host: Host, accepted: Accepted) -> str:
    group = accepted.message.group
    if accepted.command:
        return ""
    if not accepted.message.wakes:
        return (
            f'kept as context: the text does not hold the trigger word "{host.trigger(group)}"; '
            'write it, send "direct": true, or set trigger = "" in config.toml'
        )
    if why := host.held_for(group):
        if why == LoginRequiredError.code:
            return "kept until there is a login: the operator has to run `nanokimi login`"
        if why in (ImageMissingError.code, ENGINE_SILENT):
            return f"kept until the agent can be started again ({why})"
        return f"kept until the model answers again ({why})"
    return ""
