"""Gives due tasks their runs: sleeps until the next time, and lets the store decide.

It goes by the wall clock but sleeps by the steady one, a short while at most: so a clock that is
set, a machine that slept and a task that another host added are seen soon. Any host may fire any
task; that none is fired twice is the transaction's matter (see ``store.firing``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from runner.errors import NanokimiError
from runner.host.events import EventLog
from runner.host.trouble import Trouble
from runner.model import Role, Task
from runner.store import Store, firing, tasks
from runner.store.firing import Fired, Postpone, Run, Skip, Terms

log = structlog.get_logger()

LONGEST_SLEEP = 30.0
RETRY = 5.0
"""Seconds until a postponed run, or a store that failed, is tried again."""

GRACE = 60.0
"""A run that is late by less was not missed."""

ASLEEP = LONGEST_SLEEP + GRACE
"""Between two looks this long by the wall clock nobody was there to look."""

PAGE = 100


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What counts for a task beside its time: the role of whom it is for, the group's queue."""

    role: Role
    max_queue: int
    held: bool


class Scheduler:
    """See the module. :meth:`run` is to be a task; :meth:`look` says that times have changed."""

    def __init__(
        self,
        store: Store,
        log_: EventLog,
        of_task: Callable[[Task], Awaitable[Circumstances]],
        wake: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._log = log_
        self._of_task = of_task
        self._wake = wake
        self._clock = clock
        self._changed = asyncio.Event()
        self._last_look: float | None = None
        self._awake_since = 0.0
        self._postponed: set[str] = set()

    def look(self) -> None:
        """Another time may be the next."""
        self._changed.set()

    async def run(self) -> None:
        """Fire what is due until cancelled."""
        trouble = Trouble("schedule.not_read")
        while True:
            self._changed.clear()
            wait = RETRY
            try:
                wait = await self.round()
            except NanokimiError as e:
                trouble.met(e)
            else:
                trouble.over()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait)

    async def round(self) -> float:
        """Fire everything that is due; the seconds until the next look.

        Raises:
            NanokimiError: the store failed; what was not fired is still due.
        """
        missed_before = self._missed_before()
        now = self._clock()
        postponed: set[str] = set()
        after = (0.0, "")
        while page := await self._due(now, after):
            for task in page:
                if await self._fired_later(task, missed_before):
                    postponed.add(task.id)
            after = (page[-1].next_at or 0.0, page[-1].id)
        self._postponed = postponed
        coming = await self._store.read(lambda c: tasks.next_due(c, now))
        wait = LONGEST_SLEEP if coming is None else min(coming - self._clock(), LONGEST_SLEEP)
        return max(min(wait, RETRY) if postponed else wait, 0.0)

    def _missed_before(self) -> float:
        """What was due before this came when no host was there, or this machine slept."""
        now, last = self._clock(), self._last_look
        if last is None or now - last > ASLEEP:
            self._awake_since = now
        self._last_look = now
        return self._awake_since - GRACE

    async def _due(self, now: float, after: tuple[float, str]) -> list[Task]:
        return await self._store.read(lambda c: tasks.due(c, now, after, PAGE))

    async def _fired_later(self, task: Task, missed_before: float) -> bool:
        """Fire; True when the task is still due and has to wait."""
        try:
            return await self._fire(task, missed_before)
        except NanokimiError:
            raise
        except Exception:
            # A bug of ours in one task must not keep the others from their runs.
            log.exception("task.bug", group=task.group, task=task.id)
            return True

    async def _fire(self, task: Task, missed_before: float) -> bool:
        now_so = await self._of_task(task)
        with self._log.writing(task.group) as event_id:
            terms = Terms(
                now=self._clock(),
                missed_before=missed_before,
                max_queue=now_so.max_queue,
                role=now_so.role,
                held=now_so.held,
                event_id=event_id,
            )
            fired = await self._store.transact(lambda c: firing.fire(c, task, terms), task.group)
            if fired is not None and fired.event is not None:
                self._log.show(fired.event)
        if fired is None:
            return False
        self._say(fired)
        if isinstance(fired.decision, Run):
            self._wake(task.group)
        return isinstance(fired.decision, Postpone)

    def _say(self, fired: Fired) -> None:
        task = fired.task
        match fired.decision:
            case Run():
                log.info("task.run", group=task.group, task=task.id, message=task.last_message_id)
            case Skip(why):
                log.warning("task.skipped", group=task.group, task=task.id, reason=str(why))
            case Postpone(why):
                if task.id not in self._postponed:  # said once, not at every look
                    log.warning("task.postponed", group=task.group, task=task.id, reason=str(why))
