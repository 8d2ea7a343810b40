"""Events as a stream: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec
from starlette.responses import StreamingResponse

from runner.errors import NotFoundError
from runner.host import events
from runner.host.app import Host
from runner.host.events import EventLog, Lagging
from runner.host.progress import finished_json
from runner.model import Event, Message, TurnState
from runner.store import Accepted

KEEP_ALIVE = 15.0

_encode = msgspec.json.Encoder().encode


def respond(stream: AsyncGenerator[Event, None]) -> StreamingResponse:
    """An SSE answer; a comment every 15 s keeps proxies from closing a quiet one."""
    return StreamingResponse(
        _lines(stream),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


def of_group(log: EventLog, group: str, last_event_id: int | None) -> AsyncGenerator[Event, None]:
    """All events of a group after ``last_event_id``; only new ones without it."""
    return log.follow(group, last_event_id)


async def of_message(host: Host, accepted: Accepted, mark: int) -> AsyncGenerator[Event, None]:
    """Events of one message until its turn has ended; at most one turn's worth.

    ``mark`` is the log's mark before the message was accepted. A message that only waits as
    context ends its stream at once; a duplicate of an answered one gets the answer again.
    """
    message = accepted.message
    if accepted.duplicate:
        mark = 0
        if (ended := await _ended(host, message)) is not None:
            yield ended
            return
    turn_id: str | None = None
    async with contextlib.aclosing(host.events.follow(message.group, mark)) as log:
        async for event in log:
            if message.id in event.message_ids:
                turn_id = event.turn_id
                yield event
                if not message.wakes and not accepted.duplicate:
                    return
            elif turn_id is not None and event.turn_id == turn_id:
                if message.id in event.data.get("released", ()):
                    turn_id = None  # it had joined that turn too late, and gets another
                    continue
                yield event
                if events.ends_turn(event):
                    return
    if not host.stopping:
        data = {
            "turn_id": turn_id,
            "code": "group_deleted",
            "message": "the group was deleted",
            "hint": "",
            "will_retry": False,
        }
        yield Event(host.events.mark(), message.group, events.TURN_FAILED, data, turn_id)


async def _ended(host: Host, message: Message) -> Event | None:
    if message.turn_id is None:
        return None
    try:
        turn = await host.store.turn(message.turn_id)
    except NotFoundError:
        return None
    if turn.state is TurnState.RUNNING:
        return None
    if turn.error is not None:
        kind, data = events.TURN_FAILED, turn.error
    else:
        kind, data = events.TURN_FINISHED, finished_json(turn, None)
    return Event(host.events.mark(), message.group, kind, data, turn.id)


async def _lines(stream: AsyncGenerator[Event, None]) -> AsyncIterator[bytes]:
    reading: asyncio.Task[Event | None] | None = None
    try:
        while True:
            reading = reading or asyncio.create_task(_next(stream), name="next event")
            done, _ = await asyncio.wait({reading}, timeout=KEEP_ALIVE)
            if not done:
                yield b": keep-alive\n\n"
                continue
            try:
                event = reading.result()
            except Lagging:
                return  # the client comes back with its last id
            if event is None:
                return
            reading = None
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                event.id,
                event.kind.encode(),
                _encode(event.data),
            )
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})
        await stream.aclose()


async def _next(stream: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(stream, None)
