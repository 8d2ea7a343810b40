"""The one writer: whoever waits shares a commit, and nobody is answered before it.

A commit waits for the disk; while one does, the next jobs gather. Up to :data:`BATCH` of them go
into one transaction. When one of them fails, all are taken back and done again, each behind a
savepoint of its own: so a job that fails undoes its own changes and no other's, and the many
batches in which none does pay nothing for it.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from runner.errors import BusyError
from runner.store.database import explain
from runner.store.postgres import has_committed, lost_a_race, transaction_of

_T = TypeVar("_T")

BATCH = 64
CAPACITY = 5_000
_TRIES = 5  # of a job alone that meets another host's
_ASK_FOR = 10.0
_ASK_EVERY = 0.2


@dataclass(slots=True)
class _Job:
    work: Callable[[Connection], Any]
    done: asyncio.Future[Any]
    group: str = ""
    result: Any = None
    error: Exception | None = None


class _Undone(Exception):
    """The database took back the whole transaction because of one job in it."""


class _Failed(Exception):
    """A job of a batch without savepoints failed: nothing of the batch is to be written."""


class Writer:
    """One thread that writes. Made on the event loop that its callers run on.

    Args:
        capacity: jobs that may wait; one more is refused.
    """

    def __init__(self, engine: Engine, *, capacity: int = CAPACITY) -> None:
        self._engine = engine
        self._capacity = capacity
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Job] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[Connection], _T], group: str = "") -> _T:
        """Run ``work`` in a transaction; return when it is on disk.

        ``group`` is the one that it locks, if it does.

        ``work`` has no effects but those on the database: it may run again from its beginning, when
        it was undone together with others.

        Raises:
            BusyError: too many jobs wait already, or the store is closed.
            TemporaryError, PermanentError: the database refused; ``work`` has no effect. Only when
                the connection broke in a commit and the server stays away, nobody can know.
        """
        job = _Job(work, self._loop.create_future(), group)
        with self._change:
            self._refuse_over()
            self._waiting.append(job)
            self._change.notify()
        found: _T = await job.done
        return found

    async def close(self) -> None:
        """Take no more jobs, do those that wait, and end the thread."""
        with self._change:
            self._closed = True
            self._change.notify()
        await asyncio.to_thread(self._thread.join)

    def _refuse_over(self) -> None:
        if self._closed:
            raise BusyError("the store is closed", hint="the host is ending", code="store_busy")
        if len(self._waiting) >= self._capacity:
            raise BusyError(
                f"{len(self._waiting)} changes wait for the database already",
                hint="try again soon; if it stays so, look at the disk or the database server",
                code="store_busy",
                retry_after=1.0,
            )

    # -- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._take():
            self._write(batch)
            self._loop.call_soon_threadsafe(_tell, batch)

    def _take(self) -> list[_Job]:
        """What waits, up to a batch; empty at the end."""
        with self._change:
            while not self._waiting and not self._closed:
                self._change.wait()
            count = min(len(self._waiting), BATCH)
            return [self._waiting.popleft() for _ in range(count)]

    def _write(self, batch: Sequence[_Job]) -> None:
        """Leave each job with its result, on disk, or with its error."""
        try:
            if len(batch) == 1:
                self._alone(batch[0])
                return
            # Two hosts that lock groups in one order do not wait for each other in a circle.
            ordered = sorted(batch, key=lambda job: job.group)
            try:
                self._hopefully(ordered)
            except _Failed:
                self._each_apart(ordered)
        except _Undone:
            for job in batch:
                job.result = job.error = None
                self._write([job])
        except Exception as e:  # noqa: BLE001 - whatever it is, somebody waits for it
            error = self._explained(e)
            for job in batch:
                job.error = error

    def _alone(self, job: _Job) -> None:
        for left in reversed(range(_TRIES)):
            try:
                with self._transaction() as c:
                    job.result = job.work(c)
            except DBAPIError as e:
                if not left or not lost_a_race(e):
                    raise
                time.sleep(random.uniform(0.0, 0.05))  # noqa: S311 - so that two do not meet again
            else:
                return

    def _hopefully(self, batch: Sequence[_Job]) -> None:
        """Raises: _Failed: one of them did, and nothing was written."""
        with self._transaction() as c:
            for job in batch:
                try:
                    job.result = job.work(c)
                except Exception as e:
                    if isinstance(e, DBAPIError) and e.connection_invalidated:
                        raise
                    raise _Failed from None

    def _each_apart(self, batch: Sequence[_Job]) -> None:
        """Raises: _Undone: nothing was written, and each alone may succeed."""
        with self._transaction() as c:
            for job in batch:
                job.result = None
                # Never released: the commit does that, and the newest of a name is the one meant.
                c.exec_driver_sql("SAVEPOINT job")
                try:
                    job.result = job.work(c)
                except Exception as e:
                    if isinstance(e, DBAPIError):
                        if e.connection_invalidated:
                            raise
                        if lost_a_race(e) or not in_transaction(c):
                            raise _Undone from None
                    job.error = self._explained(e)
                    c.exec_driver_sql("ROLLBACK TO SAVEPOINT job")

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """As the engine's, but a commit whose answer got lost counts when it happened."""
        mark: str | None = None
        ends = False
        try:
            with self._engine.begin() as c:
                yield c
                if c.dialect.name == "postgresql":
                    mark = transaction_of(c)
                ends = True
        except DBAPIError as e:
            if not (ends and mark and e.connection_invalidated and self._has_committed(mark)):
                raise

    def _has_committed(self, mark: str) -> bool:
        """Ask the server, which may have to come back first."""
        deadline = time.monotonic() + _ASK_FOR
        while True:
            try:
                with self._engine.begin() as c:
                    committed = has_committed(c, mark)
            except OperationalError:
                committed = None
            except DBAPIError:  # another server, which knows nothing of it
                return False
            if committed is not None:
                return committed
            if time.monotonic() >= deadline:
                return False
            time.sleep(_ASK_EVERY)

    def _explained(self, e: Exception) -> Exception:
        # A broken constraint is a bug of ours, never the operator's.
        if isinstance(e, DBAPIError) and not isinstance(e, IntegrityError):
            return explain(e, self._engine.url)
        return e


def in_transaction(c: Connection) -> bool:
    """SQLite ends a transaction by itself when the disk is full."""
    held = c.connection.dbapi_connection
    return bool(getattr(held, "in_transaction", True))


def _tell(batch: Sequence[_Job]) -> None:
    for job in batch:
        if job.done.done():
            continue  # nobody waits any more
        if job.error is not None:
            job.done.set_exception(job.error)
        else:
            job.done.set_result(job.result)
