"""Hands out the few sandboxes fairly.

At most ``max_containers`` groups have a sandbox at one time. A group keeps its sandbox warm after
a turn; when another group waits, the sandbox that has been idle longest goes. Groups that wait are
served in the order in which they came, and a group with more to do queues up again behind them.
A slot is free only when the sandbox's removal is confirmed.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from runner.errors import NanokimiError
from runner.host.session import AgentSession

log = structlog.get_logger()

STOP_RETRY = 5.0


class SessionMaker(Protocol):
    """Makes and unmakes a group's sandbox together with its session."""

    async def open(self, group: str) -> AgentSession: ...

    def outdated(self, session: AgentSession) -> bool:
        """The settings ask for another sandbox than this session has."""
        ...

    async def close(self, session: AgentSession) -> None:
        """Returns when the sandbox is confirmed gone. Raises: EngineError."""
        ...


class Slot:
    """One group's right to a sandbox, for one turn."""

    def __init__(self, pool: Pool, group: str) -> None:
        self._pool = pool
        self.group = group

    async def session(self) -> AgentSession:
        """The group's warm session, or a new one."""
        return await self._pool._session(self.group)

    async def discard(self) -> None:
        """End the group's sandbox: it is broken, or has to be another one."""
        await self._pool._end(self.group)


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
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._stops: set[asyncio.Task[None]] = set()

    # -- for the dispatcher ---------------------------------------------------------------------

    @asynccontextmanager
    async def slot(self, group: str) -> AsyncIterator[Slot]:
        """Wait for this group's turn to have a sandbox; at the end it stays warm."""
        await self._acquire(group)
        try:
            yield Slot(self, group)
        finally:
            self._release(group)

    def has(self, group: str) -> bool:
        """The group has a sandbox, or is getting or losing one."""
        return group in self._occupied

    def warm(self) -> dict[str, AgentSession]:
        """Sessions by group, busy ones too."""
        return dict(self._sessions)

    async def reap(self) -> None:
        """End what has been idle too long; runs until cancelled."""
        while True:
            now = time.monotonic()
            timeout = self._idle_timeout()
            for group, since in list(self._idle.items()):
                if now - since >= timeout or not self._sessions[group].alive:
                    self._evict(group)
            next_end = min(self._idle.values(), default=now) + timeout
            await asyncio.sleep(min(max(next_end - now, 0.05), 1.0))

    async def close(self) -> None:
        """End every sandbox; the caller has ended all turns."""
        self._idle.clear()
        for task in list(self._stops):
            task.cancel()
        groups = list(self._sessions)
        ends = (self._end(group) for group in groups)
        for group, e in zip(
            groups, await asyncio.gather(*ends, return_exceptions=True), strict=True
        ):
            if e is not None:
                log.warning("sandbox.stop_failed", group=group, error=str(e))

    # -- slots ----------------------------------------------------------------------------------

    async def _acquire(self, group: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((group, turn))
        self._make_room()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove((group, turn))
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
        """Serve those who wait, in order; end as many idle sandboxes as the rest need."""
        short = 0
        still_waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        for group, turn in self._waiting:
            if turn.done():
                still_waiting.append((group, turn))  # given up: its task takes it out
                continue
            if group in self._idle:
                del self._idle[group]
            elif group not in self._occupied and len(self._occupied) < self._max():
                self._occupied.add(group)
            else:
                short += group not in self._occupied
                still_waiting.append((group, turn))
                continue
            turn.set_result(None)
        self._waiting = still_waiting
        while self._idle and len(self._stops) < short:
            self._evict(next(iter(self._idle)))

    def _free(self, group: str) -> None:
        self._occupied.discard(group)
        self._make_room()

    # -- sandboxes ------------------------------------------------------------------------------

    async def _session(self, group: str) -> AgentSession:
        session = self._sessions.get(group)
        if session is not None:
            if session.alive and not self._maker.outdated(session):
                return session
            await self._end(group)
        session = self._sessions[group] = await self._maker.open(group)
        return session

    def _evict(self, group: str) -> None:
        del self._idle[group]
        task = asyncio.create_task(self._end_and_free(group), name=f"stop sandbox of {group[:40]}")
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def _end_and_free(self, group: str) -> None:
        while True:
            try:
                await self._end(group)
            except NanokimiError as e:
                log.warning("sandbox.stop_failed", group=group, code=e.code, error=e.message)
                await asyncio.sleep(STOP_RETRY)
            else:
                break
        self._free(group)

    async def _end(self, group: str) -> None:
        session = self._sessions.get(group)
        if session is not None:
            await self._maker.close(session)
            self._sessions.pop(group, None)
