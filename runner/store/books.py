"""Books calls in the background: a call that ends never waits for the disk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice

import structlog

from runner.calls import Call
from runner.errors import NanokimiError
from runner.store.ledger import Ledger

log = structlog.get_logger()

CAPACITY = 10_000
_BATCH = 200  # about ten milliseconds in which no message is accepted
_GATHER = 0.5
_PRUNE_EVERY = 3600.0
_LONGEST_BACKOFF = 30.0


class Books:
    """A bounded queue in front of a :class:`Ledger`.

    :meth:`book` as often as calls end; :meth:`run` as a task of the owner; :meth:`close` after that
    task was cancelled. While the database cannot be written, calls wait; when ``capacity`` of them
    wait, further ones are counted in ``lost``, and the log says so.
    """

    def __init__(self, ledger: Ledger, *, capacity: int = CAPACITY) -> None:
        self._ledger = ledger
        self._capacity = capacity
        self._waiting: deque[Call] = deque()
        self._some = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self.lost = 0

    @property
    def waiting(self) -> int:
        """Calls that are not on disk yet."""
        return len(self._waiting)

    def book(self, call: Call) -> None:
        """Take a call; never blocks."""
        if len(self._waiting) >= self._capacity:
            self.lost += 1
            if self.lost.bit_count() == 1:  # the first, and then ever more seldom
                log.error("ledger.full", waiting=len(self._waiting), lost=self.lost)
            return
        self._waiting.append(call)
        self._some.set()

    async def run(self, keep: Callable[[], float], now: Callable[[], float]) -> None:
        """Write what is booked, and forget what is older than ``keep()`` seconds, until cancelled.

        ``now`` gives Unix time, like :func:`time.time`.
        """
        loop = asyncio.get_running_loop()
        backoff = _GATHER
        prune_at = loop.time()
        while True:
            try:
                if loop.time() >= prune_at:
                    await self._prune(now() - keep())
                    prune_at = loop.time() + _PRUNE_EVERY
                await self._wait(prune_at)
                await self.flush()
                backoff = _GATHER
            except NanokimiError as e:
                log.warning("ledger.not_written", error=e.message, waiting=len(self._waiting))
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
                await asyncio.sleep(backoff)

    async def flush(self) -> None:
        """Return when every call that was booked so far is on disk.

        Raises:
            TemporaryError: the database cannot be written; the calls keep waiting.
        """
        while self._waiting:
            if self._writing is None or self._writing.done():
                self._writing = asyncio.create_task(self._write(), name="ledger write")
            # A cancelled caller leaves the write alone: half known is worse than late.
            await asyncio.shield(self._writing)

    async def close(self, deadline: float = 10.0) -> None:
        """Write what is left, within ``deadline`` seconds; what cannot be written is logged."""
        try:
            async with asyncio.timeout(deadline):
                await self.flush()
        except (NanokimiError, TimeoutError) as e:
            self.lost += len(self._waiting)
            log.error("ledger.lost", calls=len(self._waiting), error=str(e) or type(e).__name__)

    async def _wait(self, until: float) -> None:
        """Until there are calls and some time to gather more of them, or it is time to prune."""
        self._some.clear()
        if not self._waiting:
            try:
                async with asyncio.timeout_at(until):
                    await self._some.wait()
            except TimeoutError:
                return
        await asyncio.sleep(_GATHER)

    async def _write(self) -> None:
        batch = list(islice(self._waiting, _BATCH))
        await self._ledger.write(batch)
        for _ in batch:
            self._waiting.popleft()

    async def _prune(self, before: float) -> None:
        while await self._ledger.prune(before):
            pass
