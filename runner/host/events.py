"""The event log of every group: what the API streams, in order, resumable.

Ids are microseconds of the wall clock, raised where the clock did not move, so they grow over
restarts too; their lowest four bits are the host's slot, so that no two hosts make the same.
Facts (accepted, started, finished, failed, tools) are written to the store, and in memory only
until they are; the deltas of a text are kept in memory only, as the finished text holds the same
words.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from runner.model import Event
from runner.store import KEPT_EVENTS_PER_GROUP, Store
from runner.store.hosts import SLOTS

log = structlog.get_logger()

RING = 2_000
GROUPS_IN_MEMORY = 1_000
BACKLOG = 4_000
UNWRITTEN = 10_000

MESSAGE_ACCEPTED = "message.accepted"
TURN_STARTED = "turn.started"
TURN_STEERED = "turn.steered"
TURN_TYPING = "turn.typing"
TURN_RETRIED = "turn.retried"
TURN_FINISHED = "turn.finished"
TURN_FAILED = "turn.failed"
TEXT_DELTA = "text.delta"
TEXT_RESET = "text.reset"
THINKING_DELTA = "thinking.delta"
TOOL_STARTED = "tool.started"
TOOL_FINISHED = "tool.finished"
MESSAGE_SENT = "message.sent"
FILE_SENT = "file.sent"
QUESTION_ASKED = "question.asked"
DELIVERY_FAILED = "delivery.failed"
USAGE = "usage"

_MEMORY_ONLY = frozenset({TEXT_DELTA, TEXT_RESET, THINKING_DELTA, USAGE, TURN_TYPING})


def ends_turn(event: Event) -> bool:
    """Nothing more of this turn will come."""
    return event.kind == TURN_FINISHED or (
        event.kind == TURN_FAILED and not event.data.get("will_retry")
    )


class Lagging(Exception):
    """A subscriber did not keep up; it may come back with its last event id."""


class Subscription:
    """Live events of one group, from the moment it was made."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(BACKLOG)
        self._lagging = False

    def push(self, event: Event) -> None:
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._lagging = True

    def end(self) -> None:
        """No more events: the iteration stops after what is queued."""
        try:
            self._queue.put_nowait(None)
        except asyncio.QueueFull:
            self._lagging = True

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            if self._lagging and self._queue.empty():
                raise Lagging
            event = await self._queue.get()
            if event is None:
                return
            yield event


@dataclass(slots=True)
class _Line:
    """Events of one group that wait for a lower id which is still being written."""

    reserved: set[int] = field(default_factory=set)
    waiting: list[tuple[int, Event]] = field(default_factory=list)


class EventLog:
    """Makes events, shows them to whoever listens, and keeps what has to survive."""

    def __init__(self, store: Store, last_id: int, slot: int) -> None:
        self.slot = slot
        self._store = store
        self._last = last_id
        self._rings: OrderedDict[str, deque[Event]] = OrderedDict()
        self._subscribers: dict[str, set[Subscription]] = {}
        self._unwritten: dict[int, Event] = {}
        self._dirty = asyncio.Event()
        self._lines: dict[str, _Line] = {}
        self._observers: list[Callable[[Event], None]] = []
        self.before_following: Callable[[str], Awaitable[None]] | None = None
        """Awaited with the group, once somebody listens and before what is stored is read."""

    def observe(self, observer: Callable[[Event], None]) -> None:
        """Call ``observer`` with every event of every group from now on. It must not block."""
        self._observers.append(observer)

    @property
    def unwritten(self) -> int:
        """Facts that listeners have seen and the disk has not."""
        return len(self._unwritten)

    @classmethod
    async def open(cls, store: Store, slot: int = 0) -> EventLog:
        """``slot`` is that of this host among those on the store."""
        return cls(store, await store.last_event_id(), slot)

    @contextmanager
    def writing(self, group: str) -> Iterator[int]:
        """Reserve the id of a fact that is about to be written; show it inside the block.

        Events of the group with higher ids wait for the block, so listeners see ids in order and
        may resume at any of them.
        """
        id_ = self._next_id()
        line = self._lines.setdefault(group, _Line())
        line.reserved.add(id_)
        try:
            yield id_
        finally:
            line.reserved.discard(id_)
            self._emit(group, line)

    def show(self, event: Event) -> None:
        """Hand an event that is on disk, or needs none, to the group's listeners."""
        line = self._lines.setdefault(event.group, _Line())
        line.reserved.discard(event.id)
        heapq.heappush(line.waiting, (event.id, event))
        self._emit(event.group, line)

    def followed(self) -> list[str]:
        """Groups that somebody listens to."""
        return list(self._subscribers)

    def show_foreign(self, event: Event) -> None:
        """Hand another host's event to the group's listeners; it is in the store already."""
        for subscriber in self._subscribers.get(event.group, ()):
            subscriber.push(event)

    def tell(
        self, group: str, kind: str, data: dict[str, Any], *, turn_id: str | None = None
    ) -> None:
        """Make and show an event at once; facts are written a moment later by :meth:`run`."""
        event = Event(self._next_id(), group, kind, data, turn_id)
        if kind not in _MEMORY_ONLY:
            if len(self._unwritten) >= UNWRITTEN:
                del self._unwritten[next(iter(self._unwritten))]
            self._unwritten[event.id] = event
            self._dirty.set()
        self.show(event)

    def seat(self, slot: int) -> None:
        """This host has another place among those on the store from now on."""
        self.slot = slot

    def mark(self) -> int:
        """An id below that of every event to come: ``follow(group, mark)`` misses none of them."""
        return max(self._last, time.time_ns() // 1000 - SLOTS)

    def _next_id(self) -> int:
        now = max(self._last // SLOTS + 1, time.time_ns() // 1000 // SLOTS)
        self._last = now * SLOTS + self.slot
        return self._last

    def _emit(self, group: str, line: _Line) -> None:
        first_reserved = min(line.reserved, default=None)
        while line.waiting and (first_reserved is None or line.waiting[0][0] < first_reserved):
            self._publish(heapq.heappop(line.waiting)[1])
        if not line.waiting and not line.reserved:
            self._lines.pop(group, None)

    def _publish(self, event: Event) -> None:
        if ends_turn(event):  # the finished text holds what the deltas said
            self._keep_unwritten(event.group)
        if event.kind in _MEMORY_ONLY or event.id in self._unwritten:
            ring = self._rings.setdefault(event.group, deque(maxlen=RING))
            ring.append(event)
            self._rings.move_to_end(event.group)
            while len(self._rings) > GROUPS_IN_MEMORY:
                self._rings.popitem(last=False)
        for subscriber in self._subscribers.get(event.group, ()):
            subscriber.push(event)
        for observer in self._observers:
            observer(event)

    def _keep_unwritten(self, group: str) -> None:
        """Forget what the store has, and what nobody will ask for any more."""
        kept = [e for e in self._rings.pop(group, ()) if e.id in self._unwritten]
        if kept:
            self._rings[group] = deque(kept, maxlen=RING)

    async def run(self) -> None:
        """Write told facts in batches until cancelled; the rest is written on the way out."""
        try:
            while True:
                await self._dirty.wait()
                self._dirty.clear()
                await self._flush()
        finally:
            await self._flush()

    async def _flush(self) -> None:
        batch = list(self._unwritten.values())
        try:
            if batch:
                await self._store.append_events(batch)
        except Exception as e:  # noqa: BLE001
            # Only progress events come this way; results are written with their turn.
            log.warning("events.not_written", count=len(batch), error=str(e))
        finally:
            for event in batch:
                self._unwritten.pop(event.id, None)
            for group in {e.group for e in batch}:
                if not any(e.kind in _MEMORY_ONLY for e in self._rings.get(group, ())):
                    self._keep_unwritten(group)

    def subscribe(self, group: str) -> Subscription:
        """Listen from now on; give it back with :meth:`unsubscribe`."""
        subscription = Subscription()
        self._subscribers.setdefault(group, set()).add(subscription)
        return subscription

    def unsubscribe(self, group: str, subscription: Subscription) -> None:
        listeners = self._subscribers.get(group)
        if listeners is not None:
            listeners.discard(subscription)
            if not listeners:
                del self._subscribers[group]

    async def follow(self, group: str, after: int | None = None) -> AsyncGenerator[Event, None]:
        """Everything after the id ``after`` (``None``: only what comes), then live, each once.

        Raises:
            Lagging: the caller read too slowly; come back with the last id.
        """
        subscription = self.subscribe(group)
        try:
            shown: set[int] = set()
            if self.before_following is not None:
                await self.before_following(group)
            if after is not None:
                # Before the store is asked: what is written meanwhile leaves memory.
                recent = [e for e in self._rings.get(group, ()) if e.id > after]
                stored = await self._store.events_after(group, after, KEPT_EVENTS_PER_GROUP)
                past = {e.id: e for e in (*stored, *recent)}
                shown.update(past)
                for id_ in sorted(past):
                    yield past[id_]
            async for event in subscription:
                if event.id not in shown:
                    yield event
        finally:
            self.unsubscribe(group, subscription)

    def forget(self, group: str) -> None:
        """Drop what is in memory of a deleted group and end its listeners."""
        self._rings.pop(group, None)
        for subscription in self._subscribers.pop(group, set()):
            subscription.end()

    def close(self) -> None:
        """End every listener: the host stops."""
        for listeners in self._subscribers.values():
            for subscription in listeners:
                subscription.end()
