"""Opens the database, and says in people's words what is wrong with it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.exc import DatabaseError, OperationalError

from runner.errors import NanokimiError, PermanentError, TemporaryError
from runner.store import schema as t

READS = "nanokimi_reads"
"""Execution option of a connection that only reads: it does not wait for the writer."""


def open_sqlite(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10.0}, pool_size=2)

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


def prepare(c: Connection) -> None:
    t.metadata.create_all(c)
    found = c.scalar(select(t.meta.c.value).where(t.meta.c.key == "schema_version"))
    if found is None:
        c.execute(insert(t.meta).values(key="schema_version", value=str(t.SCHEMA_VERSION)))
    elif int(found) > t.SCHEMA_VERSION:
        raise PermanentError(
            f"the database was written by a newer nanokimi (schema {found})",
            hint="upgrade nanokimi, or point --data at another directory",
            code="store_too_new",
        )


def explain(e: DatabaseError) -> NanokimiError:
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
    return TemporaryError(
        f"the database cannot be used: {text}",
        hint="check that the data directory is writable",
        code="store_unavailable",
    )
