"""What a transaction can do with the event log: functions of an open connection."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select

from runner.model import Event
from runner.store import schema as t
from runner.store.rows import event_of

KEPT_EVENTS_PER_GROUP = 5_000


_INSERT = insert(t.events)


def append(c: Connection, new: Sequence[Event]) -> None:
    if new:
        c.execute(
            _INSERT,
            [
                {
                    "id": e.id,
                    "group_id": e.group,
                    "kind": e.kind,
                    "turn_id": e.turn_id,
                    "message_ids": list(e.message_ids),
                    "data": e.data,
                }
                for e in new
            ],
        )


def append_living(c: Connection, new: Sequence[Event]) -> None:
    """Append, but for events of groups that are gone."""
    known = select(t.groups.c.id).where(t.groups.c.id.in_({e.group for e in new}))
    living = set(c.scalars(known))
    append(c, [e for e in new if e.group in living])


def after(c: Connection, group_id: str, id_: int, limit: int) -> list[Event]:
    """Events of the group with ``id > id_``, oldest first."""
    query = (
        select(t.events)
        .where(t.events.c.group_id == group_id, t.events.c.id > id_)
        .order_by(t.events.c.id)
        .limit(limit)
    )
    return [event_of(r) for r in c.execute(query).mappings()]


def last_id(c: Connection) -> int:
    """The highest event id, 0 when there is none."""
    return c.scalar(select(func.max(t.events.c.id))) or 0


def prune(c: Connection, group_id: str) -> None:
    oldest_kept = c.scalar(
        select(t.events.c.id)
        .where(t.events.c.group_id == group_id)
        .order_by(t.events.c.id.desc())
        .offset(KEPT_EVENTS_PER_GROUP)
        .limit(1)
    )
    if oldest_kept is not None:
        c.execute(
            delete(t.events).where(t.events.c.group_id == group_id, t.events.c.id <= oldest_kept)
        )
