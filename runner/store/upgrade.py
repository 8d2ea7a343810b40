"""Brings the tables of a database to what this version needs, all of it or nothing.

It runs when a database is opened, inside one transaction that no other process can run beside: on
SQLite the write lock is held, on PostgreSQL a lock of our own. SQLite's file is copied before.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError

from runner.errors import PermanentError, TemporaryError
from runner.store import schema as t
from runner.store.migrations import FIRST, HEAD, SCRIPTS
from runner.store.postgres import check_postgres

log = structlog.get_logger()

BACKUPS = 3
"""Copies of a SQLite file that are kept, the newest."""

_LOCK = 0x6E616E6F6B696D69  # "nanokimi": the key of our lock on a PostgreSQL database
_LOCK_WAIT = "300s"
_BACKUP = re.compile(r"\.backup-\w+-(\d{8}T\d{6}Z)$")

# Alembic's own table, made here where a database is new.
version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def prepare(c: Connection) -> None:
    """Make the tables, or take the steps that are missing.

    Raises:
        PermanentError: ``store_too_new``: a newer version has written it; ``store_wrong_encoding``;
            ``store_upgrade_failed``: something is in the way, and nothing was changed.
        TemporaryError: there is no room for the backup.
    """
    if c.dialect.name == "postgresql":
        check_postgres(c)
    if revision(c) == HEAD:
        return
    if c.dialect.name == "postgresql":
        c.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'"))
        c.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    found = revision(c)  # another process may have been first
    if found is None:
        t.metadata.create_all(c)
        c.execute(insert(t.meta).values(key="schema_version", value="2"))
        version.create(c)
        c.execute(insert(version).values(version_num=HEAD))
    elif found != HEAD:
        _upgrade(c, found)


def migrate(c: Connection, target: str = HEAD) -> None:
    """Take every step up to ``target``, from the first if need be."""
    # Alembic takes a quarter of a second to load: only where there is something to do.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)

    def steps(revision: Any, _context: object) -> Any:
        return script._upgrade_revs(target, revision)

    with EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(connection=c, transactional_ddl=True)
        environment.run_migrations()


def revision(c: Connection) -> str | None:
    """The last step that was taken; ``None`` for an empty database.

    Raises:
        PermanentError: it is none of ours.
    """
    tables = set(inspect(c).get_table_names())
    if version.name in tables:
        found = str(c.scalar(select(version.c.version_num)))
    elif t.meta.name in tables:  # from before there were steps
        written = c.scalar(select(t.meta.c.value).where(t.meta.c.key == "schema_version"))
        found = FIRST if written == "1" else f"of schema {written}"
    else:
        return None
    if found != HEAD and not any((SCRIPTS / "versions").glob(f"v{found}_*.py")):
        raise PermanentError(
            f"the database was written by a newer nanokimi ({found}, this one knows {HEAD})",
            hint="upgrade nanokimi, or restore the backup that was made before its upgrade",
            code="store_too_new",
        )
    return found


def _upgrade(c: Connection, found: str) -> None:
    began = time.monotonic()
    backup = _backup(c, found)
    log.warning("store.upgrading", was=found, to=HEAD, backup=backup)
    if version.name not in inspect(c).get_table_names():
        version.create(c)
        c.execute(insert(version).values(version_num=found))
    try:
        migrate(c)
    except DBAPIError as e:
        raise PermanentError(
            f"the database cannot be upgraded from {found} to {HEAD}: {e.orig}",
            hint="it is as it was; what is said above is in the way",
            code="store_upgrade_failed",
        ) from None
    log.warning("store.upgraded", was=found, to=HEAD, ms=round(1000 * (time.monotonic() - began)))


def _backup(c: Connection, found: str) -> str:
    """Copy SQLite's file; where the copy is, for the log."""
    if c.dialect.name != "sqlite" or c.engine.url.database is None:
        return "none: what counts is your own backup of the PostgreSQL server"
    path = Path(c.engine.url.database)
    copy = back_up(path, found, datetime.now(UTC))
    _forget(path)
    return str(copy)


def back_up(path: Path, revision: str, now: datetime) -> Path:
    """A private copy of a SQLite file beside it, on disk when this returns.

    Raises:
        TemporaryError: it cannot be written.
    """
    copy = path.with_name(f"{path.name}.backup-{revision}-{now:%Y%m%dT%H%M%SZ}")
    half = copy.with_name(f"{copy.name}.tmp")
    try:
        half.unlink(missing_ok=True)
        os.close(os.open(half, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(half)) as target:
            source.backup(target)
        _sync(half)
        half.replace(copy)
        _sync(copy.parent)
    except (OSError, sqlite3.Error) as e:
        half.unlink(missing_ok=True)
        raise TemporaryError(
            f"the database must be upgraded, and cannot be backed up before: {e}",
            hint=f"make room for a copy of {path.name} beside it, and start again",
            code="store_no_backup",
        ) from None
    return copy


def _forget(path: Path) -> None:
    """Keep the newest copies."""
    copies = [
        (found[1], copy)
        for copy in path.parent.glob(f"{path.name}.backup-*")
        if (found := _BACKUP.search(copy.name))
    ]
    for _, old in sorted(copies)[:-BACKUPS]:
        old.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
