"""What a transaction can do with turns beside beginning and ending them.

A turn that runs may be joined by messages, and held for a reason that passes by itself; one that
failed may be tried again.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, select, update

from runner.errors import NotFoundError
from runner.model import (
    MESSAGE_MOVES,
    DeliveryKind,
    Event,
    Message,
    MessageState,
    Turn,
    TurnState,
    advance,
)
from runner.store import event_log, fence, groups, outbox
from runner.store import schema as t
from runner.store.rows import message_of, turn_of

MAX_JOINED = 50
MAX_JOINED_CHARS = 512 * 1024


@dataclass(frozen=True, slots=True)
class Joined:
    """Messages that are part of a running turn now, in their order, and the event of it."""

    messages: tuple[Message, ...]
    event: Event


@dataclass(frozen=True, slots=True)
class Retried:
    """Messages of failed turns that wait again."""

    turn_ids: tuple[str, ...]
    message_ids: tuple[str, ...]


def page(c: Connection, group_id: str, state: TurnState | None, limit: int) -> list[Turn]:
    """The group's newest turns, newest first. Raises: NotFoundError."""
    groups.need(c, group_id)
    query = select(t.turns).where(t.turns.c.group_id == group_id)
    if state is not None:
        query = query.where(t.turns.c.state == state)
    newest = query.order_by(t.turns.c.started_at.desc(), t.turns.c.id).limit(limit)
    return [turn_of(r) for r in c.execute(newest).mappings()]


# -- held and failed ----------------------------------------------------------------------------


def hold(c: Connection, turn: Turn, notice: Event | None, webhook: str) -> Turn | None:
    """Excuse this attempt: it failed for a reason that passes. ``None``: it is a stale one.

    ``notice`` is what the chat is told of it.
    """
    groups.lock(c, turn.group)
    if not fence.holds(c, turn):
        return None
    held = select(t.turns.c.held_since).where(t.turns.c.id == turn.id)
    since = c.scalar(held) or time.time()
    mine = update(t.turns).where(t.turns.c.id == turn.id)
    c.execute(mine.values(excused=t.turns.c.excused + 1, held_since=since))
    if notice is not None:
        event_log.append(c, [notice])
        outbox.say(c, turn, DeliveryKind.NOTICE, notice.kind, notice.data, webhook)
    row = c.execute(select(t.turns).where(t.turns.c.id == turn.id)).mappings().one()
    return turn_of(row)


def let_go(c: Connection, turn: Turn) -> None:
    """What held the turn is over: it failed for another reason."""
    mine = update(t.turns).where(t.turns.c.id == turn.id, t.turns.c.attempt == turn.attempt)
    c.execute(mine.values(held_since=None))


def count_dead(c: Connection, group_id: str) -> int:
    """Failed turns of the group with messages that nobody has had tried again."""
    return (
        c.scalar(
            select(func.count(t.messages.c.turn_id.distinct())).where(
                t.messages.c.group_id == group_id, t.messages.c.state == MessageState.FAILED
            )
        )
        or 0
    )


def retry(c: Connection, group_id: str, turn_id: str | None) -> Retried:
    """Put failed messages, of one turn or of all, back into the queue at their old places.

    Raises:
        NotFoundError: no such group, or no failed message of such a turn.
    """
    groups.need(c, group_id)
    groups.lock(c, group_id)
    failed = select(t.messages).where(
        t.messages.c.group_id == group_id, t.messages.c.state == MessageState.FAILED
    )
    if turn_id is not None:
        failed = failed.where(t.messages.c.turn_id == turn_id)
    found = [message_of(r) for r in c.execute(failed.order_by(t.messages.c.seq)).mappings()]
    if not found and turn_id is not None:
        raise NotFoundError(
            f"no failed messages of a turn {turn_id!r} in the group {group_id!r}",
            hint=f"`nanokimi groups show {shlex.quote(group_id)}` lists the failed turns",
        )
    _requeue(c, found)
    ids = dict.fromkeys(str(m.turn_id) for m in found)
    return Retried(tuple(ids), tuple(m.id for m in found))


# -- joined -------------------------------------------------------------------------------------


def last_seq(c: Connection, group_id: str) -> int:
    """The place of the group's last message."""
    last = select(func.max(t.messages.c.seq)).where(t.messages.c.group_id == group_id)
    return c.scalar(last) or 0


def join(
    c: Connection, turn: Turn, event_id: int, *, answer_after: int | None = None
) -> Joined | None:
    """Make waiting messages of the turn's conversation part of it; ``None``: there are none.

    Those that wake the agent, in their order. With ``answer_after`` somebody was asked: the first
    message whose ``seq`` is higher, whatever it is. A stale attempt gets nothing.
    """
    groups.lock(c, turn.group)
    if not fence.holds(c, turn):
        return None
    waiting = select(t.messages).where(
        t.messages.c.group_id == turn.group,
        t.messages.c.state == MessageState.QUEUED,
        t.messages.c.session == turn.session,
    )
    if answer_after is None:
        waiting = waiting.where(t.messages.c.wakes).limit(_room(c, turn))
    else:
        waiting = waiting.where(t.messages.c.seq > answer_after).limit(1)
    first = waiting.order_by(t.messages.c.seq)
    found = _fitting([message_of(r) for r in c.execute(first).mappings()])
    if not found:
        return None
    claimed = advance(MESSAGE_MOVES, MessageState.QUEUED, MessageState.CLAIMED)
    ids = tuple(m.id for m in found)
    c.execute(
        update(t.messages)
        .where(t.messages.c.id.in_(ids))
        .values(state=claimed, turn_id=turn.id, steered=True)
    )
    data = {"turn_id": turn.id, "message_ids": list(ids)}
    steered = Event(event_id, turn.group, "turn.steered", data, turn.id, ids)
    event_log.append(c, [steered])
    return Joined(tuple(replace(m, state=claimed, steered=True) for m in found), steered)


def release_unheard(c: Connection, turn: Turn, heard: Collection[str]) -> list[str]:
    """Messages that joined the turn, but did not reach the agent, wait again; their ids."""
    query = select(t.messages).where(
        t.messages.c.turn_id == turn.id,
        t.messages.c.state == MessageState.CLAIMED,
        t.messages.c.steered,
    )
    joined = [message_of(r) for r in c.execute(query).mappings()]
    unheard = [m for m in joined if m.id not in heard]
    _requeue(c, unheard)
    return [m.id for m in unheard]


def _room(c: Connection, turn: Turn) -> int:
    joined = select(func.count()).select_from(t.messages)
    mine = joined.where(t.messages.c.turn_id == turn.id, t.messages.c.steered)
    return max(0, MAX_JOINED - (c.scalar(mine) or 0))


def _fitting(messages: Sequence[Message]) -> list[Message]:
    taken: list[Message] = []
    chars = MAX_JOINED_CHARS
    for m in messages:
        if (chars := chars - len(m.text)) < 0:
            break
        taken.append(m)
    return taken


def _requeue(c: Connection, messages: Sequence[Message]) -> None:
    for m in messages:
        advance(MESSAGE_MOVES, m.state, MessageState.QUEUED)
    if messages:
        c.execute(
            update(t.messages)
            .where(t.messages.c.id.in_([m.id for m in messages]))
            .values(state=MessageState.QUEUED, turn_id=None, steered=False)
        )
