"""What a transaction can do with the people of a group: functions of an open connection."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from runner.errors import ConflictError, NotFoundError
from runner.model import Role
from runner.store import groups
from runner.store import schema as t

MAX_MEMBERS = 10_000
"""People of one group with a role of their own."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store knows before a message is taken: of its group, and of who sent it there."""

    known: bool = False
    registered: bool = False
    role: Role | None = None


def standing(c: Connection, group_id: str, member_id: str) -> Standing:
    """One look at both; the group need not exist."""
    of_member = and_(t.members.c.group_id == t.groups.c.id, t.members.c.member_id == member_id)
    query = (
        select(t.groups.c.registered, t.members.c.role)
        .select_from(t.groups.outerjoin(t.members, of_member))
        .where(t.groups.c.id == group_id)
    )
    row = c.execute(query).first()
    if row is None:
        return Standing()
    return Standing(True, row.registered, Role(row.role) if row.role else None)


def of_group(c: Connection, group_id: str) -> dict[str, Role]:
    """Roles that were given in this group, by the person's id. Raises: NotFoundError."""
    groups.need(c, group_id)
    query = (
        select(t.members.c.member_id, t.members.c.role)
        .where(t.members.c.group_id == group_id)
        .order_by(t.members.c.member_id)
    )
    return {r.member_id: Role(r.role) for r in c.execute(query)}


def put(c: Connection, group_id: str, member_id: str, role: Role) -> None:
    """Give a person a role in this group.

    Raises:
        NotFoundError: there is no such group.
        ConflictError: ``too_many_members``.
    """
    _lock(c, group_id)
    ours = and_(t.members.c.group_id == group_id, t.members.c.member_id == member_id)
    now = time.time()
    if c.execute(update(t.members).where(ours).values(role=role, updated_at=now)).rowcount:
        return
    count = select(func.count()).select_from(t.members).where(t.members.c.group_id == group_id)
    if (c.scalar(count) or 0) >= MAX_MEMBERS:
        raise ConflictError(
            f"{MAX_MEMBERS} people have a role of their own in this group already",
            hint='take some away, or set [people] default_role = "blocked" and name who may',
            code="too_many_members",
        )
    c.execute(
        insert(t.members).values(group_id=group_id, member_id=member_id, role=role, updated_at=now)
    )


def remove(c: Connection, group_id: str, member_id: str) -> None:
    """Take a person's role away, so that the general rules hold again. Raises: NotFoundError."""
    _lock(c, group_id)
    ours = and_(t.members.c.group_id == group_id, t.members.c.member_id == member_id)
    if not c.execute(delete(t.members).where(ours)).rowcount:
        raise NotFoundError(
            f"{member_id!r} was given no role in {group_id!r}",
            hint="roles of config.toml are changed there",
        )


def _lock(c: Connection, group_id: str) -> None:
    if groups.lock(c, group_id) is None:
        groups.need(c, group_id)
