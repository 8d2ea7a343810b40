"""Events of groups that another host runs, for those who follow them here.

Facts are in the store, so they are looked up there as long as somebody listens and another host
lives. Deltas stay with the host that runs the turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from runner.errors import NanokimiError
from runner.host.events import EventLog
from runner.host.trouble import Trouble
from runner.model import Event
from runner.store import KEPT_EVENTS_PER_GROUP, Store
from runner.store.hosts import SLOTS

log = structlog.get_logger()

LOOK = 0.5
IDLE = 2.0
LATE = 60 * 1_000_000
"""Microseconds by which an event may come later than one with a higher id: another clock, or a
transaction that took its time."""


class Foreign:
    """``others`` says whether another host lives."""

    def __init__(self, store: Store, log_: EventLog, others: Callable[[], bool]) -> None:
        self._store = store
        self._log = log_
        self._others = others
        self._seen: dict[str, set[int]] = {}
        self._slot = log_.slot

    async def run(self) -> None:
        """Show them until cancelled."""
        trouble = Trouble("events.not_read")
        while True:
            if not self._others():
                self._seen.clear()
                await asyncio.sleep(IDLE)
                continue
            slot, failed = self._log.slot, False
            for group in self._log.followed():
                try:
                    await self._look(group)
                except NanokimiError as e:
                    trouble.met(e)
                    failed = True
            if not failed:
                trouble.over()
                self._slot = slot
            for group in self._seen.keys() - set(self._log.followed()):
                del self._seen[group]
            await asyncio.sleep(LOOK)

    async def begin(self, group: str) -> None:
        """Somebody follows the group, and reads what is stored by himself: show what comes."""
        if group not in self._seen and self._others():
            self._seen[group] = {e.id for e in await self._recent(group)}

    async def _look(self, group: str) -> None:
        recent = await self._recent(group)
        seen = self._seen.get(group, set())
        for event in recent:
            # What this host made in a place that it lost just now was shown when it was made.
            if event.id not in seen and event.id % SLOTS != self._slot:
                self._log.show_foreign(event)
        self._seen[group] = {e.id for e in recent}

    async def _recent(self, group: str) -> list[Event]:
        since = self._log.mark() - LATE
        found = await self._store.events_after(group, since, KEPT_EVENTS_PER_GROUP)
        return [e for e in found if e.id % SLOTS != self._log.slot]
