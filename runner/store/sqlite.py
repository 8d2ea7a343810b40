"""SQLite: how its file is opened, and what its errors mean for people."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from runner.errors import NanokimiError, PermanentError, TemporaryError

READS = "nanokimi_reads"
"""Execution option of a connection that only reads: it does not wait for the writer."""

LOCK_WAIT = 10.0
"""Seconds that a transaction waits while another process writes."""


def open_sqlite(path: Path, connections: int) -> Engine:
    """The engine of a file, made with mode 0600 when it is missing. Raises: PermanentError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as e:
        raise PermanentError(
            f"the database {path} cannot be opened: {e.strerror}",
            hint="check that the directory is writable for this user",
            code="store_unavailable",
        ) from None
    engine = create_engine(
        f"sqlite:///{path}", connect_args={"timeout": LOCK_WAIT}, pool_size=connections
    )

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get(READS)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def explain_sqlite(e: DBAPIError) -> NanokimiError:
    """What an operator can do about it."""
    text = str(e.orig)
    if not isinstance(e, OperationalError):
        return PermanentError(
            f"the database is damaged: {text}",
            hint="restore nanokimi.db from a backup, or move it away to start with an empty one",
            code="store_damaged",
        )
    if "full" in text:
        return TemporaryError(
            "the disk that holds the database is full", hint="free some space", code="disk_full"
        )
    if "locked" in text or "busy" in text:
        return TemporaryError(
            "the database is locked by another process",
            hint="end the other process that has it open",
            code="store_locked",
        )
    if "readonly" in text:
        return TemporaryError(
            "the database cannot be written: it is read-only",
            hint="make nanokimi.db and its directory writable for this user",
            code="store_read_only",
        )
    return TemporaryError(
        f"the database cannot be used: {text}",
        hint="check that the data directory is writable",
        code="store_unavailable",
    )
