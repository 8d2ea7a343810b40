"""What another installation's database says of its groups. A copy of it is read, and nothing else.

Two are known: our own (``nanokimi.db``), and that of NanoKimi (``store/messages.db``), whose tables
are those of NanoClaw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, column, create_engine, func, select, table
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from runner.errors import PermanentError

_T = TypeVar("_T")
_MAX_GROUPS = 100_000
_OURS = table("groups", column("id"), column("folder"), column("session_id"))
_THEIRS = table(
    "registered_groups",
    *(column(name) for name in ("jid", "folder", "trigger_pattern", "requires_trigger")),
)
_TASKS = table("scheduled_tasks", column("status"))


@dataclass(frozen=True, slots=True)
class ForeignGroup:
    """``trigger`` empty answers everything, ``None`` is not known; ``session_id`` may be empty."""

    id: str
    folder: str
    session_id: str = ""
    trigger: str | None = None


def read_ours(database: Path) -> list[ForeignGroup]:
    """The groups of a ``nanokimi.db``. Raises: PermanentError: it is none."""

    def look(c: Connection) -> list[ForeignGroup]:
        rows = c.execute(select(_OURS).limit(_MAX_GROUPS)).mappings()
        return [ForeignGroup(str(r["id"]), str(r["folder"]), str(r["session_id"])) for r in rows]

    return _read(database, look)


def read_predecessor(database: Path) -> tuple[list[ForeignGroup], int]:
    """The registered groups of a ``messages.db``, and how many tasks were scheduled.

    Raises:
        PermanentError: it is none.
    """

    def look(c: Connection) -> tuple[list[ForeignGroup], int]:
        rows = c.execute(select(_THEIRS).limit(_MAX_GROUPS)).mappings()
        found = [
            ForeignGroup(
                str(r["jid"]),
                str(r["folder"]),
                trigger=str(r["trigger_pattern"] or "") if r["requires_trigger"] != 0 else "",
            )
            for r in rows
        ]
        active = select(func.count()).select_from(_TASKS).where(_TASKS.c.status == "active")
        return found, int(c.scalar(active) or 0)

    return _read(database, look)


def _read(database: Path, look: Callable[[Connection], _T]) -> _T:
    engine = create_engine(URL.create("sqlite", database=str(database)), poolclass=NullPool)
    try:
        with engine.connect() as c:
            return look(c)
    except SQLAlchemyError as e:
        raise PermanentError(
            f"the database cannot be read: {type(e).__name__}",
            hint="name the groups yourself with --group FOLDER=ID",
            code="foreign_database",
        ) from None
    finally:
        engine.dispose()
