"""The reasoning memory in one SQLite file that all workers share and that survives a restart.

It is a cache. A file that is damaged is thrown away and begun anew; a full disk, a lock that does
not come free or a deadline that passes means that something is not remembered, and the call goes
on with a placeholder. For the same reason commits do not wait for the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from runner.gateway.reasoning import CallKey, Limits, Thought, scoped

log = structlog.get_logger(__name__)
_T = TypeVar("_T")

DEADLINE = 3.0
_LOCK_WAIT = 1.0
MAX_WAITING = 1_000
# How many writes may pass before the bounds are looked at again; each worker counts its own.
PRUNE_EVERY = 200
# How far the memory shrinks when it has grown too large, so that it does not do so all the time.
_SHRINK = 0.9
# A thought that is used again lives on; its time is written only when it has aged this much.
_STALE = 0.25

_SCHEMA = """
CREATE TABLE IF NOT EXISTS thought (
    call TEXT NOT NULL,
    context TEXT NOT NULL,
    used REAL NOT NULL,
    size INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (call, context)
);
CREATE INDEX IF NOT EXISTS thought_by_use ON thought (used, size);
"""
_REMEMBER = """
INSERT INTO thought (call, context, used, size, text) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (call, context) DO UPDATE
SET used = excluded.used, size = excluded.size, text = excluded.text
"""
_RECALL = """
SELECT rowid, used, text FROM thought WHERE call = ?
ORDER BY context = ? DESC, used DESC, rowid DESC LIMIT 1
"""
_TOUCH = "UPDATE thought SET used = ? WHERE rowid = ?"
_SIZE = "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM thought"
_DROP_OLD = "DELETE FROM thought WHERE used < ?"
_DROP_REST = """
DELETE FROM thought WHERE rowid IN (
    SELECT rowid FROM (
        SELECT rowid, ROW_NUMBER() OVER newest AS place, SUM(size) OVER newest AS bytes
        FROM thought WINDOW newest AS (ORDER BY used DESC, rowid DESC)
    ) WHERE place > ? OR bytes > ?
)
"""


class ReasoningFile:
    """A :class:`~runner.gateway.reasoning.ReasoningMemory` in SQLite, opened at its first use.

    Args:
        path: the file, or ``None`` to remember in this process only.
        limits: what is kept; several workers may pass the bounds by ``PRUNE_EVERY`` entries each.
        now: Unix seconds.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        limits: Limits | None = None,
        now: Callable[[], float] = time.time,
        prune_every: int = PRUNE_EVERY,
    ) -> None:
        self._path = path
        self._limits = limits or Limits()
        self._now = now
        self._prune_every = prune_every
        self._writes = 0
        self._waiting = 0
        self._closed = False
        self._open: sqlite3.Connection | None = None
        # SQLite is used in one thread only, so nothing here needs a lock.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reasoning")

    async def remember(self, scope: str, thoughts: Sequence[Thought]) -> None:
        if thoughts:
            await self._run("remember", lambda: self._remember(scope, thoughts), None)

    async def recall(self, scope: str, keys: Sequence[CallKey]) -> Mapping[CallKey, str]:
        nothing: Mapping[CallKey, str] = {}
        if not keys:
            return nothing
        return await self._run("recall", lambda: self._recall(scope, keys), nothing)

    async def close(self) -> None:
        """Close the file behind what is under way; nothing is remembered or found from then on."""
        if self._closed:
            return
        self._closed = True
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)
        async with asyncio.timeout(DEADLINE):
            await closing

    async def _run(self, what: str, act: Callable[[], _T], otherwise: _T) -> _T:
        if self._closed:
            return otherwise
        if self._waiting >= MAX_WAITING:
            log.warning("reasoning.busy", what=what, waiting=self._waiting)
            return otherwise
        self._waiting += 1
        try:
            async with asyncio.timeout(DEADLINE):
                return await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._guarded, act
                )
        except (sqlite3.Error, OSError, UnicodeError, TimeoutError) as e:
            log.warning("reasoning.unavailable", what=what, error=str(e) or type(e).__name__)
            return otherwise
        finally:
            self._waiting -= 1

    def _guarded(self, act: Callable[[], _T]) -> _T:
        """Act; when the file turns out to be damaged, once more with a new one."""
        try:
            return act()
        except sqlite3.DatabaseError as e:
            # Its subclasses are locks, full disks and the like; the bare one is a broken file.
            if self._path is None or type(e) is not sqlite3.DatabaseError:
                raise
            log.warning("reasoning.damaged", path=str(self._path), error=str(e))
            self._close()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            return act()

    def _remember(self, scope: str, thoughts: Sequence[Thought]) -> None:
        now = self._now()
        rows = [
            (scoped(scope, t.key.call), t.key.context, now, len(t.text.encode()), t.text)
            for t in thoughts
        ]
        with self._connection() as c:
            c.executemany(_REMEMBER, rows)
            self._writes += len(rows)
            if self._writes >= self._prune_every:
                self._writes = 0
                self._prune(c, now)

    def _recall(self, scope: str, keys: Sequence[CallKey]) -> Mapping[CallKey, str]:
        now, found, touched = self._now(), {}, []
        oldest, stale = now - self._limits.age, now - self._limits.age * _STALE
        connection = self._connection()
        for key in keys:
            row = connection.execute(_RECALL, (scoped(scope, key.call), key.context)).fetchone()
            if row is None or row[1] < oldest:
                continue
            found[key] = str(row[2])
            if row[1] < stale:
                touched.append((now, row[0]))
        if touched:
            with connection:
                connection.executemany(_TOUCH, touched)
        return found

    def _prune(self, c: sqlite3.Connection, now: float) -> None:
        limits = self._limits
        c.execute(_DROP_OLD, (now - limits.age,))
        entries, size = c.execute(_SIZE).fetchone()
        if entries > limits.entries or size > limits.bytes:
            c.execute(_DROP_REST, (int(limits.entries * _SHRINK), int(limits.bytes * _SHRINK)))

    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            self._open = self._connect()
        return self._open

    def _connect(self) -> sqlite3.Connection:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
        c = sqlite3.connect(self._path or ":memory:", timeout=_LOCK_WAIT)
        try:
            c.execute("PRAGMA journal_mode = WAL")
            c.execute("PRAGMA synchronous = NORMAL")
            c.executescript(_SCHEMA)
            with c:
                self._prune(c, self._now())
        except sqlite3.Error:
            c.close()
            raise
        return c

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
