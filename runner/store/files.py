"""What a transaction can do with the files that agents sent: functions of an open connection."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict

from sqlalchemy import Connection as Connection
from sqlalchemy import RowMapping, delete, func, insert, select

from runner.errors import NotFoundError
from runner.model import MessageState, StoredFile
from runner.store import groups
from runner.store import schema as t

# Messages in these states have no turn before them.
_HEARD = (MessageState.ANSWERED, MessageState.DROPPED)


def add(c: Connection, file: StoredFile) -> None:
    """Write the row; the bytes are on disk already."""
    values = asdict(file)
    values["group_id"] = values.pop("group")
    c.execute(insert(t.files).values(values))


def page(c: Connection, group_id: str, limit: int) -> list[StoredFile]:
    """The newest files of the group, newest first. Raises: NotFoundError."""
    groups.need(c, group_id)
    query = (
        select(t.files)
        .where(t.files.c.group_id == group_id)
        .order_by(t.files.c.created_at.desc(), t.files.c.id)
        .limit(limit)
    )
    return [_file_of(r) for r in c.execute(query).mappings()]


def need(c: Connection, group_id: str, file_id: str) -> StoredFile:
    """Raises: NotFoundError: there is none of this id in this group."""
    query = select(t.files).where(t.files.c.group_id == group_id, t.files.c.id == file_id)
    row = c.execute(query).mappings().first()
    if row is None:
        raise NotFoundError(
            "there is no such file in this group",
            hint="it may have been too old: [store] keep_files says how long files are kept",
        )
    return _file_of(row)


def make_room(c: Connection, group_id: str, new: int, bound: int) -> list[str]:
    """Forget the group's oldest files until ``new`` more bytes stay within ``bound``; their ids."""
    taken = c.scalar(select(func.sum(t.files.c.size)).where(t.files.c.group_id == group_id)) or 0
    over = int(taken) + new - bound
    gone: list[str] = []
    if over > 0:
        oldest = (
            select(t.files.c.id, t.files.c.size)
            .where(t.files.c.group_id == group_id)
            .order_by(t.files.c.created_at, t.files.c.id)
        )
        for id_, size in c.execute(oldest).all():
            if over <= 0:
                break
            gone.append(id_)
            over -= size
        _forget(c, gone)
    return gone


def expire(c: Connection, before: float, limit: int) -> list[tuple[str, str]]:
    """Forget files made before this time, the oldest first; their groups' folders and their ids."""
    query = (
        select(t.groups.c.folder, t.files.c.id)
        .join(t.groups, t.groups.c.id == t.files.c.group_id)
        .where(t.files.c.created_at < before)
        .order_by(t.files.c.created_at)
        .limit(limit)
    )
    found = [(folder, id_) for folder, id_ in c.execute(query).all()]
    _forget(c, [id_ for _, id_ in found])
    return found


def known(c: Connection, ids: Collection[str]) -> set[str]:
    """Those of ``ids`` that are files."""
    return set(c.scalars(select(t.files.c.id).where(t.files.c.id.in_(ids))))


def awaited(c: Connection, message_ids: Collection[str]) -> dict[str, bool]:
    """Which of these messages there are, and whether a turn may still want their attachments."""
    query = select(t.messages.c.id, t.messages.c.state).where(t.messages.c.id.in_(message_ids))
    return {id_: MessageState(state) not in _HEARD for id_, state in c.execute(query).all()}


def _forget(c: Connection, ids: Sequence[str]) -> None:
    c.execute(delete(t.files).where(t.files.c.id.in_(ids)))


def _file_of(r: RowMapping) -> StoredFile:
    return StoredFile(
        id=r["id"],
        group=r["group_id"],
        turn_id=r["turn_id"],
        name=r["name"],
        media_type=r["media_type"],
        size=r["size"],
        created_at=r["created_at"],
    )
