"""What a transaction can do with hosts and what they own: functions of an open connection.

Several hosts may work on one store. A group's sandbox, and with it its files and its memory, is
with one of them: the group's ``owner``. A host that lives renews its row all the time; what a host
owns is free for others when its row has run out or is gone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import (
    Connection,
    Select,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    update,
)

from runner.errors import ConflictError, PermanentError
from runner.model import Group
from runner.store import groups
from runner.store import schema as t

LEASE = 15.0
"""Seconds that a host may be silent before others take what it owns."""

SLOTS = 16


@dataclass(frozen=True, slots=True)
class Standing:
    """A host among the others: its ``slot``, and whether there are others that have work."""

    slot: int
    others: bool


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another host has the group, and keeps it at least until ``until`` (Unix seconds)."""

    owner: str
    until: float


def clock(c: Connection) -> float:
    """Unix seconds by the clock that all hosts on this store share."""
    if c.dialect.name == "postgresql":
        return float(c.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)
    return time.time()


def enter(c: Connection, host: str, run: float) -> Standing:
    """Join the hosts of this store, or come back with what was owned before.

    ``run`` (Unix seconds) tells the runs of one host apart: it is when this one started.

    Raises:
        PermanentError: there are too many hosts.
    """
    if c.dialect.name == "postgresql":
        c.execute(text("LOCK TABLE hosts IN SHARE ROW EXCLUSIVE MODE"))
    now = clock(c)
    c.execute(delete(t.hosts).where(t.hosts.c.expires_at <= now, t.hosts.c.id != host))
    slot = c.scalar(select(t.hosts.c.slot).where(t.hosts.c.id == host))
    if slot is None:
        taken = set(c.scalars(select(t.hosts.c.slot)))
        slot = next((n for n in range(SLOTS) if n not in taken), None)
        if slot is None:
            raise PermanentError(
                f"{SLOTS} hosts use this database already",
                hint="end one of them, or give this one a database of its own",
                code="too_many_hosts",
            )
        c.execute(insert(t.hosts).values(id=host, slot=slot, expires_at=now, started_at=run))
    mine = update(t.hosts).where(t.hosts.c.id == host)
    c.execute(mine.values(expires_at=now + LEASE, started_at=run))
    return Standing(slot, _others(c, host))


def renew(c: Connection, host: str, run: float) -> Standing:
    """Say that this host lives. One that was silent for too long joins again.

    Raises:
        ConflictError: another process has come as this host.
        PermanentError: there are too many hosts.
    """
    row = c.execute(select(t.hosts).where(t.hosts.c.id == host)).mappings().first()
    if row is None:
        return enter(c, host, run)
    if row["started_at"] != run:
        raise ConflictError(
            f"another process works as the host {host} of this database",
            hint="a data directory was copied: remove host-id from one of the two and restart it",
            code="host_replaced",
        )
    now = clock(c)
    c.execute(update(t.hosts).where(t.hosts.c.id == host).values(expires_at=now + LEASE))
    # The rows of the dead go, but not at once: as long as they are there, others look for work.
    c.execute(delete(t.hosts).where(t.hosts.c.expires_at <= now - LEASE, t.hosts.c.id != host))
    return Standing(row["slot"], _others(c, host))


def leave(c: Connection, host: str, run: float) -> None:
    """Give up everything, at a clean end."""
    done = c.execute(delete(t.hosts).where(t.hosts.c.id == host, t.hosts.c.started_at == run))
    if done.rowcount:
        c.execute(update(t.groups).where(t.groups.c.owner == host).values(owner=""))


def take(c: Connection, group_id: str, host: str) -> Group | Elsewhere | None:
    """Make the group this host's, under the group's lock; ``None`` when it is gone."""
    group = groups.lock(c, group_id)
    if group is None or group.owner == host:
        return group
    if group.owner:
        until = c.scalar(select(t.hosts.c.expires_at).where(t.hosts.c.id == group.owner))
        if until is not None and until > clock(c):
            return Elsewhere(group.owner, until)
    groups.change(c, group_id, owner=host)
    return groups.need(c, group_id)


def elsewhere(c: Connection, host: str) -> set[str]:
    """Groups that another living host owns."""
    return set(c.scalars(select(t.groups.c.id).where(t.groups.c.owner.in_(_living(c, host)))))


def owner_elsewhere(c: Connection, group_id: str, host: str) -> str:
    """The other living host that owns the group; empty when none does, or there is no group."""
    query = select(t.groups.c.owner).where(
        t.groups.c.id == group_id, t.groups.c.owner.in_(_living(c, host))
    )
    return c.scalar(query) or ""


def take_new(c: Connection, group_id: str, host: str) -> str:
    """Make the group this host's, and make it at all when it is new; who keeps it instead."""
    groups.put(c, group_id)
    found = take(c, group_id, host)
    return found.owner if isinstance(found, Elsewhere) else ""


def mine_or_free(c: Connection, host: str) -> Select[tuple[str]]:
    """A query for the groups that this host may work for."""
    return select(t.groups.c.id).where(
        or_(t.groups.c.owner.in_(("", host)), t.groups.c.owner.not_in(_living(c, host)))
    )


def _living(c: Connection, host: str) -> Select[tuple[str]]:
    return select(t.hosts.c.id).where(t.hosts.c.id != host, t.hosts.c.expires_at > clock(c))


def _others(c: Connection, host: str) -> bool:
    return c.scalar(select(literal_column("1")).where(t.hosts.c.id != host).limit(1)) is not None
