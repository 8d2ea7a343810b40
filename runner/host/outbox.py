"""Sends what the outbox holds: in order within a group, groups side by side, each once.

A row is claimed for as long as one try may take, sent, and settled. A host that dies in between
leaves a claim that ends by itself, and the row is sent again under the same id.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog

from runner.channels.channel import Channel, Failed, Rejected, Result
from runner.errors import NanokimiError
from runner.host import events
from runner.host.events import EventLog
from runner.host.lanes import Lanes
from runner.host.redelivery import Again, Done, GiveUp, after_try
from runner.host.trouble import Trouble
from runner.model import Delivery, Event
from runner.store import Store
from runner.store.deliveries import Deliveries

log = structlog.get_logger()

AT_ONCE = 64
AT_ONE_RECEIVER = 8
POLL = 15.0
MARGIN = 5.0
STORE_RETRY = 2.0
_LOOKED_AT_ONCE = 500

_TELLS = frozenset(
    {
        events.TURN_FINISHED,
        events.TURN_FAILED,
        events.MESSAGE_SENT,
        events.FILE_SENT,
        events.QUESTION_ASKED,
    }
)


@dataclass(frozen=True, slots=True)
class SendLimits:
    """``timeout`` of one try and ``max_age`` of all, in seconds; ``max_chars`` of a text."""

    timeout: float
    max_age: float
    max_chars: int


class Deliverer:
    """See the module. :meth:`run` owns every task.

    Args:
        host: the name of this one among those on the store.
        channels: by the name that deliveries have for theirs.
        limits: those of a group, now.
    """

    def __init__(
        self,
        store: Store,
        host: str,
        log_: EventLog,
        channels: Mapping[str, Channel],
        limits: Callable[[str], SendLimits],
    ) -> None:
        self._rows = Deliveries(store)
        self._host = host
        self._log = log_
        self._channels = channels
        self._limits = limits
        self._lanes = Lanes(AT_ONCE, AT_ONE_RECEIVER)
        self._woken: set[str] = set()
        self._changed = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        log_.observe(self._notice)

    def wake(self, group: str) -> None:
        """There may be something to send in this group."""
        self._woken.add(group)
        self._changed.set()

    def _notice(self, event: Event) -> None:
        if event.kind in _TELLS:
            self.wake(event.group)

    async def run(self) -> None:
        """Send until cancelled. What is being sent then is left for the next host, at once."""
        try:
            async with asyncio.TaskGroup() as tasks:
                recovered, everything = False, 0.0
                trouble = Trouble("outbox.not_read")
                while True:
                    self._changed.clear()
                    try:
                        if not recovered:
                            await self._recover()
                            recovered = True
                        if (now := time.monotonic()) >= everything:
                            await self._look_at_all()
                            everything = now + POLL
                        await self._look_at_woken()
                        trouble.over()
                    except NanokimiError as e:
                        trouble.met(e)
                        await asyncio.sleep(STORE_RETRY)
                        continue
                    self._start(tasks)
                    await self._until_changed(everything)
        finally:
            for channel in self._channels.values():
                await channel.aclose()

    async def drain(self, deadline: float) -> None:
        """Send what is due, until ``deadline`` (monotonic seconds), then begin nothing more."""
        while (left := deadline - time.monotonic()) > 0:
            if not self._woken and self._lanes.idle(time.time()):
                break
            if self._sending:
                waits = self._sending.values()
                await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0.01)  # let `run` look at what is next
        self._stopping = True

    async def _recover(self) -> None:
        if count := await self._rows.recover(self._host):
            log.info("outbox.recovered", count=count)

    # -- what is next ---------------------------------------------------------------------------

    async def _look_at_all(self) -> None:
        for head in await self._rows.heads(self._host):
            self._lanes.put(head.group, _receiver(head.target), head.next_at)

    async def _look_at_woken(self) -> None:
        while self._woken:
            some = [self._woken.pop() for _ in range(min(len(self._woken), _LOOKED_AT_ONCE))]
            try:
                heads = {head.group: head for head in await self._rows.heads(self._host, some)}
            except NanokimiError:
                self._woken.update(some)
                raise
            for group in some:
                if (head := heads.get(group)) is None:
                    self._lanes.drop(group)
                else:
                    self._lanes.put(group, _receiver(head.target), head.next_at)

    def _start(self, tasks: asyncio.TaskGroup) -> None:
        while not self._stopping and (group := self._lanes.take(time.time())) is not None:
            task = tasks.create_task(self._one(group), name=f"deliver {group[:40]}")
            self._sending[group] = task

    async def _until_changed(self, everything: float) -> None:
        left = everything - time.monotonic()
        if (due := self._lanes.next_due()) is not None and not self._stopping:
            left = min(left, due - time.time())
        try:
            async with asyncio.timeout(max(left, 0.0)):
                await self._changed.wait()
        except TimeoutError:
            pass

    # -- one delivery ---------------------------------------------------------------------------

    async def _one(self, group: str) -> None:
        try:
            limits = self._limits(group)
            delivery = await self._rows.claim(group, limits.timeout + MARGIN)
            if delivery is not None:
                result = await self._send(delivery, limits)
                await self._settle(delivery, result, limits)
        except NanokimiError as e:
            log.warning("outbox.not_written", group=group, code=e.code, error=e.message)
            await asyncio.sleep(STORE_RETRY)
        finally:
            self._sending.pop(group, None)
            self._lanes.done(group)
            self.wake(group)

    async def _send(self, delivery: Delivery, limits: SendLimits) -> Result:
        channel = self._channels.get(delivery.channel)
        if channel is None:
            return Rejected(f"there is no channel {delivery.channel!r}")
        try:
            return await channel.send(delivery, limits.max_chars, limits.timeout)
        except NanokimiError as e:
            return Failed(e.message)
        except asyncio.CancelledError:
            # Whether it has arrived nobody knows: the next host need not wait to send it again.
            await self._rows.again(delivery, time.time(), "the host stopped")
            raise
        except Exception as e:
            log.exception("delivery.bug", group=delivery.group, delivery=delivery.id)
            return Failed(f"an internal error ({type(e).__name__})")

    async def _settle(self, delivery: Delivery, result: Result, limits: SendLimits) -> None:
        now = time.time()
        decision = after_try(
            result,
            delivery.attempts,
            delivery.since,
            now,
            max_age=limits.max_age,
            jitter=random.random(),  # noqa: S311  it spreads load, and keeps no secret
        )
        while True:
            try:
                await self._write(delivery, decision)
                return
            except NanokimiError as e:
                # As long as the claim holds nobody else sends it, and this end can still be told.
                if time.time() + STORE_RETRY >= delivery.next_at:
                    raise
                log.warning("delivery.not_written", delivery=delivery.id, error=e.message)
                await asyncio.sleep(STORE_RETRY)

    async def _write(self, delivery: Delivery, decision: Done | Again | GiveUp) -> None:
        about = {
            "group": delivery.group,
            "turn": delivery.turn_id,
            "delivery": delivery.id,
            "attempt": delivery.attempts,
        }
        match decision:
            case Done():
                if await self._rows.delivered(delivery):
                    log.info("delivery.delivered", **about)
            case Again(at, error):
                if await self._rows.again(delivery, at, error):
                    wait = round(at - time.time(), 1)
                    log.warning("delivery.failed", **about, error=error, again_in=wait)
            case GiveUp(error):
                if await self._reject(delivery, error):
                    log.error("delivery.rejected", **about, error=error)

    async def _reject(self, delivery: Delivery, error: str) -> bool:
        data = {"turn_id": delivery.turn_id, "delivery_id": delivery.id, "error": error}
        with self._log.writing(delivery.group) as event_id:
            event = Event(event_id, delivery.group, events.DELIVERY_FAILED, data, delivery.turn_id)
            written = await self._rows.reject(delivery, error, event)
            if written:
                self._log.show(event)
        return written


def _receiver(target: str) -> str:
    """Whom a target belongs to: what hangs, hangs for all of theirs."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return target
    return f"{parts.scheme}://{parts.netloc}"
