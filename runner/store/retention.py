"""Forgets what ended long ago, a little at a time; what is still owed to somebody stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Delete,
    Select,
    bindparam,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
)

from runner.model import DeliveryState, MessageState, TaskState, TurnState
from runner.store import schema as t
from runner.store.store import Store

BATCH = 500
"""Rows of one kind that go in one transaction, in which nobody else writes."""

_ENDED = (MessageState.ANSWERED, MessageState.DROPPED, MessageState.FAILED)
_OPEN = (MessageState.QUEUED, MessageState.CLAIMED)
_SENT = (DeliveryState.DELIVERED, DeliveryState.REJECTED)
TASK_SESSION = "task:"
"""What the name of a task's own conversation begins with."""

_before: BindParameter[float] = bindparam("before")
_m, _u, _o = t.messages.c, t.turns.c, t.outbox.c

_OLD_DELIVERIES = (
    select(_o.seq)
    # Nothing is sent before it is due: this only lets an index find them.
    .where(_o.state.in_(_SENT), _o.finished_at < _before, _o.next_at < _before)
    .limit(BATCH)
)
_OLD_TURNS = (
    select(_u.id)
    .where(
        _u.finished_at < _before,
        _u.state != TurnState.RUNNING,
        ~exists().where(_o.turn_id == _u.id),
        ~exists().where(_m.turn_id == _u.id, _m.state.in_(_OPEN)),
    )
    .order_by(_u.finished_at)
    .limit(BATCH)
)
_OLD_TASKS = (
    select(t.tasks.c.id)
    .where(
        t.tasks.c.state == TaskState.DONE,
        func.coalesce(t.tasks.c.last_at, t.tasks.c.created_at) < _before,
    )
    .limit(BATCH)
)
# Their ids are microseconds.
_OLD_EVENTS = select(t.events.c.id).where(t.events.c.id < bindparam("id")).limit(BATCH)


class Retention:
    """Over an open :class:`Store`, and closed with it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen = 0

    async def forget(self, before: float) -> int:
        """Forget some of what ended before ``before`` (Unix seconds).

        What may go is looked for beside the writer; what goes is judged again when it does. Returns
        0 when there is no more: call it again until then. Raises: TemporaryError.
        """
        old = {"before": before}
        gone = await self._some(_OLD_DELIVERIES, old, _deliveries)
        gone += await self._some(_OLD_TURNS, old, _turns)
        gone += await self._some(_OLD_TASKS, old, _tasks)
        gone += await self._some(_OLD_EVENTS, {"id": int(before * 1e6)}, _events)
        return gone + await self._messages(before)

    async def lost_sessions(self) -> None:
        """Forget the conversations of tasks that are gone. Raises: TemporaryError."""
        names = t.sessions.c.name
        lost = delete(t.sessions).where(
            names.startswith(TASK_SESSION),
            ~exists().where(literal(TASK_SESSION) + t.tasks.c.id == names),
        )
        await self._store.transact(lambda c: c.execute(lost).rowcount)

    async def _some(
        self,
        query: Select[Any],
        values: dict[str, Any],
        forget: Callable[[list[Any]], list[Delete]],
    ) -> int:
        found = await self._store.read(lambda c: list(c.scalars(query, values)))
        if not found:
            return 0

        def work(c: Connection) -> int:
            return max(c.execute(statement).rowcount for statement in forget(found))

        return await self._store.transact(work)

    async def _messages(self, before: float) -> int:
        """Messages that no turn took along, or whose turn is gone.

        They are looked through from the first on, a page each time: their order is that of time.
        """
        after = self._seen
        page = select(_m.seq, _m.created_at).where(_m.seq > after).order_by(_m.seq).limit(BATCH)
        rows = await self._store.read(lambda c: c.execute(page).all())
        last = max((seq for seq, created_at in rows if created_at < before), default=None)
        if last is None:
            self._seen = 0  # the next round looks at all again: more of them have ended by then
            return 0
        ended = delete(t.messages).where(
            _m.seq > after,
            _m.seq <= last,
            _m.created_at < before,
            _m.state.in_(_ENDED),
            or_(_m.turn_id.is_(None), ~exists().where(_u.id == _m.turn_id)),
        )
        await self._store.transact(lambda c: c.execute(ended).rowcount)
        self._seen = last
        return 1  # there may be another page, whether or not something of this one went


def _deliveries(seqs: list[int]) -> list[Delete]:
    return [delete(t.outbox).where(_o.seq.in_(seqs), _o.state.in_(_SENT))]


def _turns(ids: list[str]) -> list[Delete]:
    """Turns with their messages and the calls of their tools."""
    return [
        delete(t.tool_calls).where(t.tool_calls.c.turn_id.in_(ids)),
        delete(t.messages).where(_m.turn_id.in_(ids), _m.state.in_(_ENDED)),
        delete(t.turns).where(_u.id.in_(ids)),
    ]


def _tasks(ids: list[str]) -> list[Delete]:
    return [delete(t.tasks).where(t.tasks.c.id.in_(ids), t.tasks.c.state == TaskState.DONE)]


def _events(ids: list[int]) -> list[Delete]:
    return [delete(t.events).where(t.events.c.id.in_(ids))]
