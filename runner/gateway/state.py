"""What the gateway remembers between calls, workers and restarts: rests and rates.

It is only a memory. When the file cannot be written, or is lost, calls go on and some provider is
asked once more than it had to be.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

log = structlog.get_logger(__name__)

Stored = dict[str, Any]
Change = Callable[[Stored | None], Stored | None]

MAX_ROWS = 10_000
MAX_AGE = 7 * 86_400.0
BUSY = 0.25
_TIDY_EVERY = 500
# Not a database, a broken one, one of another shape. Busy or read-only is not spoiled.
_SPOILED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR)


class StateStore(Protocol):
    """Small records by kind and key. ``None`` is no record."""

    def records(self, kind: str) -> Mapping[str, Stored]:
        """All of a kind by key, as last written by anybody. Look, and do not keep it."""

    def update(self, kind: str, key: str, change: Change) -> Stored | None:
        """Replace a record by ``change(record)`` with nobody in between; gives the new one."""


class MemoryState:
    """For one process, until it ends."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, Stored]] = {}

    def records(self, kind: str) -> Mapping[str, Stored]:
        return self._records.get(kind, {})

    def update(self, kind: str, key: str, change: Change) -> Stored | None:
        known = self._records.setdefault(kind, {})
        new = change(known.get(key))
        if new is None:
            known.pop(key, None)
            return None
        known[key] = new
        if len(known) > MAX_ROWS:
            del known[next(iter(known))]
        return new


class SqliteState:
    """One file for all workers of a host (WAL). Use from one thread.

    Reads are served from memory until another worker has written. Nothing is synced to the disk
    with each write: a crash of the machine may lose the last ones.

    Args:
        clock: Unix seconds, for the age of records.
        busy: seconds to wait for another worker's write, which takes microseconds. What cannot be
            written by then is remembered in this process alone.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, *, busy: float = BUSY
    ) -> None:
        self._clock = clock
        self._writes = 0
        self._seen = -1
        self._known: dict[str, dict[str, Stored]] = {}
        self._db = _open_at_all_costs(path, busy)
        self._tidy()

    def close(self) -> None:
        self._db.close()

    def records(self, kind: str) -> Mapping[str, Stored]:
        try:
            version = self._db.execute("PRAGMA data_version").fetchone()[0]
            if version != self._seen:
                self._known.clear()
                self._seen = version
            if kind not in self._known:
                rows = self._db.execute("SELECT key, state FROM states WHERE kind = ?", (kind,))
                self._known[kind] = {k: s for k, raw in rows if (s := _decode(raw)) is not None}
        except sqlite3.Error as e:
            log.warning("gateway.state_unread", error=str(e))
        return self._known.get(kind, {})

    def update(self, kind: str, key: str, change: Change) -> Stored | None:
        try:
            new = self._write(kind, key, change)
        except sqlite3.Error as e:
            log.warning("gateway.state_unsaved", error=str(e))
            new = change(self._known.get(kind, {}).get(key))
        if (known := self._known.get(kind)) is not None:
            known.pop(key, None)
            if new is not None:
                known[key] = new
        return new

    def _write(self, kind: str, key: str, change: Change) -> Stored | None:
        with _transaction(self._db):
            row = self._db.execute(
                "SELECT state FROM states WHERE kind = ? AND key = ?", (kind, key)
            ).fetchone()
            new = change(_decode(row[0]) if row else None)
            if new is None:
                self._db.execute("DELETE FROM states WHERE kind = ? AND key = ?", (kind, key))
            else:
                self._db.execute(
                    "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)",
                    (kind, key, msgspec.json.encode(new), self._clock()),
                )
        self._writes += 1
        if self._writes % _TIDY_EVERY == 0:
            self._tidy()
        return new

    def _tidy(self) -> None:
        """Names that clients make up must not fill the disk."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("DELETE FROM states WHERE at < ?", (self._clock() - MAX_AGE,))
            self._db.execute(
                "DELETE FROM states WHERE rowid IN "
                "(SELECT rowid FROM states ORDER BY at DESC LIMIT -1 OFFSET ?)",
                (MAX_ROWS,),
            )


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Any:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _open(path: Path, busy: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=busy, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(
            "CREATE TABLE IF NOT EXISTS states (kind TEXT NOT NULL, key TEXT NOT NULL, "
            "state BLOB NOT NULL, at REAL NOT NULL, PRIMARY KEY (kind, key))"
        )
        db.execute("SELECT kind, key, state, at FROM states LIMIT 1")
    except BaseException:
        db.close()
        raise
    return db


def _open_at_all_costs(path: Path, busy: float) -> sqlite3.Connection:
    """The file; a new one in place of one that is no use; memory when there can be none."""
    try:
        return _open(path, busy)
    except sqlite3.Error as e:
        log.warning("gateway.state_lost", path=str(path), error=str(e))
        if getattr(e, "sqlite_errorcode", None) in _SPOILED:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            with contextlib.suppress(sqlite3.Error):
                return _open(path, busy)
    return _open(Path(":memory:"), busy)


def _decode(raw: bytes) -> Stored | None:
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
