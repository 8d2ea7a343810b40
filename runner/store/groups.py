"""What a transaction can do with groups: functions of an open connection."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from runner.errors import NotFoundError, OwnedElsewhereError
from runner.model import Group, folder_of
from runner.store import schema as t
from runner.store.rows import group_of

# Of every message that is accepted: to build a statement takes longer than to run it.
_LOCK = select(t.groups).where(t.groups.c.id == bindparam("group")).with_for_update()


def find_all(c: Connection) -> list[Group]:
    """All groups, oldest first."""
    query = select(t.groups).order_by(t.groups.c.created_at, t.groups.c.id)
    return [group_of(r) for r in c.execute(query).mappings()]


def find(c: Connection, group_id: str) -> Group | None:
    row = c.execute(select(t.groups).where(t.groups.c.id == group_id)).mappings().first()
    return group_of(row) if row is not None else None


def need(c: Connection, group_id: str) -> Group:
    """Raises: NotFoundError."""
    group = find(c, group_id)
    if group is None:
        raise NotFoundError(
            f"there is no group {group_id!r}",
            hint="`nanokimi groups list` shows them; a group is made by its first message",
        )
    return group


def lock(c: Connection, group_id: str) -> Group | None:
    """The group, whose queue nobody else changes until this transaction ends."""
    row = c.execute(_LOCK, {"group": group_id}).mappings().first()
    return group_of(row) if row is not None else None


def put(c: Connection, group_id: str) -> Group:
    """The group, made when it is new, also when another host makes it right now."""
    if (known := find(c, group_id)) is not None:
        return known
    row = {"id": group_id, "folder": folder_of(group_id), "created_at": time.time()}
    insert_new(c, t.groups, row)
    return need(c, group_id)


def insert_new(c: Connection, table: Table, row: dict[str, Any]) -> None:
    """Write a row unless there is one like it, also when another host writes it right now."""
    if c.dialect.name == "postgresql":
        c.execute(postgresql.insert(table).values(row).on_conflict_do_nothing())
    else:
        c.execute(sqlite.insert(table).values(row).on_conflict_do_nothing())


def register(c: Connection, group_id: str) -> Group:
    """The group, made when it is new, as one that is served whatever the allowlist says."""
    put(c, group_id)
    change(c, group_id, registered=True)
    return need(c, group_id)


def adopt(c: Connection, group_id: str, session_id: str) -> None:
    """Register a group that another installation had; a new one goes on with that session."""
    new = find(c, group_id) is None
    register(c, group_id)
    if new and session_id:
        change(c, group_id, session_id=session_id)


def chosen_models(c: Connection) -> dict[str, str]:
    """Groups whose chat has chosen a model, with its alias."""
    query = select(t.groups.c.id, t.groups.c.model).where(t.groups.c.model != "")
    return {str(id_): str(alias) for id_, alias in c.execute(query)}


def change(c: Connection, group_id: str, **values: object) -> None:
    """Set columns of the group's row."""
    c.execute(update(t.groups).where(t.groups.c.id == group_id).values(**values))


def next_generation(c: Connection, group_id: str, host: str) -> int:
    """Count up and return the group's sandbox generation. Raises: OwnedElsewhereError."""
    group = lock(c, group_id) or need(c, group_id)
    if group.owner != host:
        raise OwnedElsewhereError(
            f"the group {group_id!r} is with another host", hint="its messages are answered there"
        )
    change(c, group_id, generation=t.groups.c.generation + 1)
    return need(c, group_id).generation


def session_of(c: Connection, group: Group, name: str) -> str:
    """The agent's session of one of the group's conversations; ``name`` empty is its own."""
    if not name:
        return group.session_id
    query = select(t.sessions.c.session_id).where(
        t.sessions.c.group_id == group.id, t.sessions.c.name == name
    )
    return c.scalar(query) or ""


def set_session(
    c: Connection, group_id: str, session_id: str, generation: int, name: str = ""
) -> None:
    """Remember the agent's session of a conversation, unless the writer's generation is stale."""
    group = lock(c, group_id)
    if group is None or group.generation != generation:
        return
    if not name:
        change(c, group_id, session_id=session_id)
        return
    row = {"group_id": group_id, "name": name}
    c.execute(delete(t.sessions).filter_by(**row))
    c.execute(insert(t.sessions).values(**row, session_id=session_id))


def forget_sessions(c: Connection, group_id: str) -> None:
    """The next turn of each conversation starts a new session. Raises: NotFoundError."""
    need(c, group_id)
    change(c, group_id, session_id="", generation=t.groups.c.generation + 1)
    c.execute(delete(t.sessions).where(t.sessions.c.group_id == group_id))


def remove(c: Connection, group_id: str) -> None:
    """Remove the group and all that belongs to it. Raises: NotFoundError."""
    need(c, group_id)
    for table in t.OF_A_GROUP:
        c.execute(delete(table).where(table.c.group_id == group_id))
    c.execute(delete(t.groups).where(t.groups.c.id == group_id))
