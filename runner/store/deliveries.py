"""Every query of what is done with the outbox: find, claim, settle, list, try again.

A group's deliveries go out one after the other, in the order of their ``seq``: only the first one
that is still open, its head, may be claimed. A claim is a move to ``sending`` that ends by itself
at ``next_at``; ``attempts`` is its fence, so of all who race for a row one sends it, and a sender
that comes back too late changes nothing. Hosts look only at groups that no other living one owns.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, select, update

from runner.errors import ConflictError, NotFoundError
from runner.model import DELIVERY_MOVES, Delivery, DeliveryState, Event, advance
from runner.store import event_log, groups, hosts
from runner.store import schema as t
from runner.store.rows import delivery_of
from runner.store.store import Store

MAX_HEADS = 10_000

_o = t.outbox.c
_OPEN = _o.finished_at.is_(None)
_FACTS = [column for column in t.outbox.columns if column.name != "body"]
COUNTED = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.REJECTED)


@dataclass(frozen=True, slots=True)
class Head:
    """The delivery of a group that is next, without its body; due at ``next_at``."""

    group: str
    target: str
    next_at: float


class Deliveries:
    """Over an open :class:`Store`, and closed with it. It keeps no state of its own.

    Every method raises TemporaryError as the store's do.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def heads(self, host: str, groups: Collection[str] | None = None) -> list[Head]:
        """What is next in those of these groups (``None``: of all) that ``host`` may work for.

        Soonest first; at most 10,000.
        """
        return await self._store.read(lambda c: heads(c, host, groups))

    async def recover(self, host: str) -> int:
        """Make what ``host`` was sending when it ended due again; how many. To be called once."""
        return await self._store.transact(lambda c: recover(c, host, time.time()))

    async def claim(self, group: str, lasts: float) -> Delivery | None:
        """Take the group's next delivery for ``lasts`` seconds, if it is due and nobody has it."""
        return await self._store.transact(lambda c: claim(c, group, time.time(), lasts))

    async def delivered(self, delivery: Delivery) -> bool:
        """It has arrived. False: somebody else has it now."""
        return await self._store.transact(lambda c: _end(c, delivery, DeliveryState.DELIVERED, ""))

    async def again(self, delivery: Delivery, at: float, error: str) -> bool:
        """Try it again at ``at`` (Unix seconds). False: somebody else has it now."""

        def work(c: Connection) -> bool:
            return _settle(c, delivery, DeliveryState.PENDING, next_at=at, error=error)

        return await self._store.transact(work)

    async def reject(self, delivery: Delivery, error: str, log: Event) -> bool:
        """It cannot be delivered: ``log`` tells the group. False: somebody else has it now."""

        def work(c: Connection) -> bool:
            if not _end(c, delivery, DeliveryState.REJECTED, error):
                return False
            event_log.append(c, [log])
            return True

        return await self._store.transact(work)

    async def page(
        self, group: str, state: DeliveryState | None, *, after: int = 0, limit: int = 100
    ) -> list[Delivery]:
        """Those of a group with ``seq > after``, in order, without their bodies.

        Raises:
            NotFoundError: there is no such group.
        """

        def work(c: Connection) -> list[Delivery]:
            groups.need(c, group)
            query = select(*_FACTS).where(_o.group_id == group, _o.seq > after)
            if state is not None:
                query = query.where(_o.state == state)
            rows = c.execute(query.order_by(_o.seq).limit(limit)).mappings()
            return [delivery_of(r, {}) for r in rows]

        return await self._store.read(work)

    async def retry(self, group: str, delivery_id: str) -> Delivery:
        """Have a rejected one tried again from now on.

        Raises:
            NotFoundError: the group has no such delivery.
            ConflictError: it is not rejected.
        """
        return await self._store.transact(lambda c: retry(c, group, delivery_id, time.time()))

    async def counts(self, group: str = "") -> dict[DeliveryState, int]:
        """How many there are that are not delivered, by state; of one group, if it is named."""

        def work(c: Connection) -> dict[DeliveryState, int]:
            query = select(_o.state, func.count()).where(_o.state.in_(COUNTED)).group_by(_o.state)
            if group:
                query = query.where(_o.group_id == group)
            found = {DeliveryState(state): int(n) for state, n in c.execute(query)}
            return {state: found.get(state, 0) for state in COUNTED}

        return await self._store.read(work)


def heads(c: Connection, host: str, of: Collection[str] | None) -> list[Head]:
    first = (
        select(func.min(_o.seq))
        .where(_OPEN, _o.group_id.in_(hosts.mine_or_free(c, host)))
        .group_by(_o.group_id)
    )
    if of is not None:
        first = first.where(_o.group_id.in_(of))
    query = (
        select(_o.group_id, _o.target, _o.next_at)
        .where(_o.seq.in_(first))
        .order_by(_o.next_at)
        .limit(MAX_HEADS)
    )
    return [Head(*row) for row in c.execute(query)]


def recover(c: Connection, host: str, now: float) -> int:
    mine = select(t.groups.c.id).where(t.groups.c.owner == host)
    back = advance(DELIVERY_MOVES, DeliveryState.SENDING, DeliveryState.PENDING)
    done = c.execute(
        update(t.outbox)
        .where(_o.state == DeliveryState.SENDING, _o.group_id.in_(mine))
        .values(state=back, next_at=now)
    )
    return done.rowcount


def claim(c: Connection, group: str, now: float, lasts: float) -> Delivery | None:
    head = select(t.outbox).where(_OPEN, _o.group_id == group).order_by(_o.seq).limit(1)
    row = c.execute(head).mappings().first()
    if row is None or row["next_at"] > now:
        return None
    found = delivery_of(row, row["body"])  # in ``sending`` when its sender has ended without a word
    if found.state is not DeliveryState.SENDING:
        advance(DELIVERY_MOVES, found.state, DeliveryState.SENDING)
    mine = replace(
        found, state=DeliveryState.SENDING, attempts=found.attempts + 1, next_at=now + lasts
    )
    taken = c.execute(
        update(t.outbox)
        .where(
            _o.id == found.id,
            _o.state == found.state,
            _o.attempts == found.attempts,
            _o.next_at == found.next_at,
        )
        .values(state=mine.state, attempts=mine.attempts, next_at=mine.next_at)
    )
    return mine if taken.rowcount else None


def retry(c: Connection, group: str, delivery_id: str, now: float) -> Delivery:
    query = select(t.outbox).where(_o.id == delivery_id, _o.group_id == group)
    row = c.execute(query.with_for_update()).mappings().first()
    if row is None:
        raise NotFoundError(
            f"there is no delivery {delivery_id!r} in this group",
            hint="`nanokimi groups deliveries GROUP` lists them",
        )
    found = delivery_of(row, row["body"])
    if found.state is not DeliveryState.REJECTED:
        raise ConflictError(
            f"the delivery is {found.state}, only a rejected one can be tried again",
            code="not_rejected",
        )
    again = replace(
        found,
        state=advance(DELIVERY_MOVES, found.state, DeliveryState.PENDING),
        next_at=now,
        since=now,
        finished_at=None,
    )
    c.execute(
        update(t.outbox)
        .where(_o.id == again.id)
        .values(state=again.state, next_at=now, since=now, finished_at=None)
    )
    return again


def _end(c: Connection, delivery: Delivery, state: DeliveryState, error: str) -> bool:
    return _settle(c, delivery, state, error=error, finished_at=time.time())


def _settle(c: Connection, delivery: Delivery, state: DeliveryState, **values: object) -> bool:
    advance(DELIVERY_MOVES, DeliveryState.SENDING, state)
    done = c.execute(
        update(t.outbox)
        .where(
            _o.id == delivery.id,
            _o.state == DeliveryState.SENDING,
            _o.attempts == delivery.attempts,
        )
        .values(state=state, **values)
    )
    return bool(done.rowcount)
