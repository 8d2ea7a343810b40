"""Hands out the few sandboxes fairly.

At most ``max_containers`` groups have a sandbox at one time. A group keeps its sandbox warm after
a turn; when another group waits, the sandbox that has been idle longest goes. Groups that wait are
served in the order in which they came, and a group with more to do queues up again behind them.
A slot is free only when the sandbox's removal is confirmed.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from runner.errors import EngineError, NanokimiError
from runner.host.session import AgentSession

log = structlog.get_logger()

STOP_RETRY = 5.0
END_DEADLINE = 60.0


class SessionMaker(Protocol):
    """Makes and unmakes a group's sandbox together with its session."""

    async def open(self, group: str) -> AgentSession: ...

    def outdated(self, session: AgentSession, generation: int) -> bool:
        """The settings ask for another sandbox, or it is older than ``generation``."""
        ...

    async def close(self, session: AgentSession) -> None:
        """Returns when the sandbox is confirmed gone. Raises: EngineError."""
        ...


class Slot:
    """One group's right to a sandbox, for one turn."""

    def __init__(self, pool: Pool, group: str) -> None:
        self._pool = pool
        self.group = group

    async def session(self, generation: int = 0) -> AgentSession:
        """The group's warm session if its sandbox is of this generation, else a new one."""
        return await self._pool._session(self.group, generation)

    async def discard(self) -> None:
        """Let go of the session: it is broken. Its sandbox is ended when the slot is given back."""
        await self._pool.drop(self.group)


class Pool:
    """See the module. ``max_containers`` and ``idle_timeout`` (s) are asked for at each use."""

    def __init__(
        self,
        maker: SessionMaker,
        max_containers: Callable[[], int],
        idle_timeout: Callable[[], float],
    ) -> None:
        self._maker = maker
        self._max = max_containers
        self._idle_timeout = idle_timeout
        self._sessions: dict[str, AgentSession] = {}
        self._occupied: set[str] = set()
        self._idle: OrderedDict[str, float] = OrderedDict()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._stuck: set[str] = set()
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # -- for the dispatcher ---------------------------------------------------------------------

    @asynccontextmanager
    async def slot(self, group: str) -> AsyncIterator[Slot]:
        """Wait for this group's turn to have a sandbox; at the end it stays warm."""
        # Two locks: whoever waits for a slot has nothing yet that `end` would have to wait for.
        async with _lock_of(self._lines, group):
            await self._acquire(group)
            try:
                async with _lock_of(self._turns, group):
                    yield Slot(self, group)
            finally:
                self._release(group)

    async def end(self, group: str, then: Callable[[], Awaitable[None]]) -> bool:
        """End the group's sandbox when its turn is over, and do ``then`` before its next one.

        Waits for nobody else. False when there was no sandbox.

        Raises:
            EngineError: the engine does not confirm the removal; it is tried again, and ``then``
                was not done.
        """
        async with _lock_of(self._turns, group):
            had_one = group in self._sessions
            if (stop := self._stops.get(group)) is not None:
                await asyncio.wait({stop}, timeout=END_DEADLINE)
                if not stop.done():
                    raise EngineError(
                        f"the sandbox of {group!r} does not end", hint="look at the engine"
                    )
            # Not idle: its slot has been given to a turn that waits for us.
            idle = self._idle.pop(group, None) is not None
            try:
                await self._end(group)
            except NanokimiError:
                if idle:
                    self._start_stop(group)
                raise
            if idle or self._idle.pop(group, None) is not None:
                self._free(group)
            await then()
            return had_one

    async def drop(self, group: str) -> None:
        """Let go of the group's session, also in the midst of a turn; its sandbox is ended soon."""
        session = self._sessions.get(group)
        if session is not None:
            await session.close()

    def warm(self) -> dict[str, AgentSession]:
        """Sessions by group, busy ones too."""
        return dict(self._sessions)

    def groups(self) -> set[str]:
        """Groups that have a sandbox, or are getting or losing one."""
        return set(self._occupied)

    async def reap(self) -> None:
        """End what has been idle too long; runs until cancelled."""
        while True:
            now = time.monotonic()
            timeout = self._idle_timeout()
            for group, since in list(self._idle.items()):
                if now - since >= timeout or not self._sessions[group].alive:
                    self._evict(group)
            self._make_room()  # the limit may have been raised
            next_end = min(self._idle.values(), default=now) + timeout
            await asyncio.sleep(min(max(next_end - now, 0.05), 1.0))

    async def close(self) -> None:
        """End every sandbox; the caller has ended all turns."""
        self._idle.clear()
        for task in list(self._stops.values()):
            task.cancel()
        groups = list(self._sessions)
        ends = await asyncio.gather(*map(self._end, groups), return_exceptions=True)
        for group, e in zip(groups, ends, strict=True):
            if e is not None:
                log.warning("sandbox.stop_failed", group=group, error=str(e))

    # -- slots ----------------------------------------------------------------------------------

    async def _acquire(self, group: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[group] = turn
        self._make_room()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                del self._waiting[group]
            else:
                self._release(group)
            raise

    def _release(self, group: str) -> None:
        session = self._sessions.get(group)
        if session is None:
            self._free(group)
            return
        self._idle[group] = time.monotonic()
        if not session.alive:
            self._evict(group)
        self._make_room()

    def _make_room(self) -> None:
        """Serve those who wait, in order; end as many idle sandboxes as the rest need.

        What it costs grows with the sandboxes, not with those who wait: they may be thousands.
        """
        for group in [g for g in self._idle if g in self._waiting]:
            if not self._waiting[group].done():
                del self._idle[group]
                self._serve(group)
        room = max(self._max() - len(self._occupied), 0)
        for group in list(itertools.islice(self._short(), room)):
            self._occupied.add(group)
            self._serve(group)
        stopping = len(self._stops) - len(self._stuck)
        short = sum(1 for _ in itertools.islice(self._short(), stopping + len(self._idle)))
        for _ in range(short - stopping):
            self._evict(next(iter(self._idle)))

    def _short(self) -> Iterator[str]:
        """Groups that wait and have no sandbox. Those who gave up are taken out by their tasks."""
        return (
            group
            for group, turn in self._waiting.items()
            if group not in self._occupied and not turn.done()
        )

    def _serve(self, group: str) -> None:
        self._waiting.pop(group).set_result(None)

    def _free(self, group: str) -> None:
        self._occupied.discard(group)
        self._make_room()

    # -- sandboxes ------------------------------------------------------------------------------

    async def _session(self, group: str, generation: int) -> AgentSession:
        session = self._sessions.get(group)
        if session is not None:
            if session.alive and not self._maker.outdated(session, generation):
                return session
            await self._end(group)
        session = self._sessions[group] = await self._maker.open(group)
        return session

    def _evict(self, group: str) -> None:
        del self._idle[group]
        self._start_stop(group)

    def _start_stop(self, group: str) -> None:
        task = asyncio.create_task(self._end_and_free(group), name=f"stop sandbox of {group[:40]}")
        self._stops[group] = task

    async def _end_and_free(self, group: str) -> None:
        try:
            while True:
                try:
                    await self._end(group)
                except Exception as e:  # noqa: BLE001  whatever it was: the slot is not free yet
                    log.warning("sandbox.stop_failed", group=group, error=str(e))
                    self._stuck.add(group)
                    self._make_room()  # others need not wait for this one
                    await asyncio.sleep(STOP_RETRY)
                else:
                    break
        finally:
            self._stuck.discard(group)
            self._stops.pop(group, None)
        self._free(group)

    async def _end(self, group: str) -> None:
        session = self._sessions.get(group)
        if session is not None:
            await self._maker.close(session)
            self._sessions.pop(group, None)


def _lock_of(locks: WeakValueDictionary[str, asyncio.Lock], group: str) -> asyncio.Lock:
    lock = locks.get(group)
    if lock is None:
        lock = locks[group] = asyncio.Lock()
    return lock
