"""What a transaction can do with messages and turns: functions of an open connection."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, literal, select, update

from runner.errors import BusyError, NotFoundError
from runner.model import (
    MESSAGE_MOVES,
    TURN_MOVES,
    Event,
    Group,
    Message,
    MessageState,
    Turn,
    TurnKind,
    TurnState,
    advance,
)
from runner.store import event_log, fence, groups, hosts, outbox, tool_calls, turns
from runner.store import schema as t
from runner.store.hosts import Elsewhere
from runner.store.rows import message_of, turn_of

MAX_MESSAGES_PER_TURN = 50
MAX_CHARS_PER_TURN = 512 * 1024
MAX_CONTEXT = 200

# Of every message that is accepted: to build a statement takes longer than to run it.
_m = t.messages.c
_INSERT = insert(t.messages)
_BY_EXTERNAL_ID = select(t.messages).where(
    _m.group_id == bindparam("group"),
    _m.channel == bindparam("channel"),
    _m.external_id == bindparam("external_id"),
)
_QUEUED = (_m.group_id == bindparam("group"), _m.state == MessageState.QUEUED)
# As many as would refuse one more: however long the queue is.
_WAKING = select(func.count()).select_from(
    select(literal(1)).where(*_QUEUED, _m.wakes).limit(bindparam("most")).subquery()
)
_OLD_CONTEXT = (
    select(_m.id).where(*_QUEUED, ~_m.wakes).order_by(_m.seq.desc()).offset(bindparam("keep"))
)

# Where a turn's end leaves its messages.
_AFTER_TURN = {
    TurnState.DONE: MessageState.ANSWERED,
    TurnState.FAILED: MessageState.FAILED,
    TurnState.CANCELLED: MessageState.DROPPED,
}


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that is on disk; ``duplicate`` when its external id was known already.

    ``command`` names the chat command that it is, empty for what is said to the agent.
    """

    message: Message
    duplicate: bool
    command: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A turn to run now, and the event that says so.

    ``turn.attempt`` is its fence: only the newest attempt may finish it. ``group`` is as it is
    now; sandboxes of an older generation than its are of no use. ``session_id`` is the agent's
    name for the turn's conversation, empty when it is a new one. ``answers`` are messages that an
    earlier attempt asked for and has heard.
    """

    turn: Turn
    messages: tuple[Message, ...]
    event: Event
    group: Group
    session_id: str
    answers: frozenset[str] = frozenset()


def accept(c: Connection, message: Message, max_queue: int, log: Event) -> Accepted:
    """Write a message and its event. Raises: BusyError."""
    if groups.lock(c, message.group) is None:
        groups.put(c, message.group)
        groups.lock(c, message.group)
    if message.external_id is not None and (known := by_external_id(c, message)):
        return Accepted(known, duplicate=True)
    if message.wakes:
        _refuse_over(c, message.group, max_queue)
    else:
        _drop_context(c, message.group, MAX_CONTEXT - 1)
    if message.reply_url:
        groups.change(c, message.group, reply_url=message.reply_url)
    seq = insert_message(c, message)
    event_log.append(c, [log])
    return Accepted(replace(message, seq=seq), duplicate=False)


def insert_message(c: Connection, message: Message) -> int:
    """Write the row; its ``seq``."""
    row = {
        "id": message.id,
        "group_id": message.group,
        "channel": message.channel,
        "external_id": message.external_id,
        "sender": message.sender,
        "text": message.text,
        "wakes": message.wakes,
        "state": message.state,
        "metadata": message.metadata,
        "created_at": message.created_at,
        "sender_id": message.sender_id,
        "role": message.role,
        "session": message.session,
        "reply_url": message.reply_url,
        "attachments": [asdict(a) for a in message.attachments],
    }
    key = c.execute(_INSERT, row).inserted_primary_key
    return int(key[0]) if key else 0


def page(c: Connection, group_id: str, after: int, limit: int) -> list[Message]:
    """Messages with ``seq > after`` in order of acceptance. Raises: NotFoundError."""
    groups.need(c, group_id)
    query = (
        select(t.messages)
        .where(t.messages.c.group_id == group_id, t.messages.c.seq > after)
        .order_by(t.messages.c.seq)
        .limit(limit)
    )
    return [message_of(r) for r in c.execute(query).mappings()]


def message(c: Connection, message_id: str) -> Message:
    """Raises: NotFoundError."""
    row = c.execute(select(t.messages).where(t.messages.c.id == message_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"there is no message {message_id!r}")
    return message_of(row)


def turn(c: Connection, turn_id: str) -> Turn:
    """Raises: NotFoundError."""
    row = c.execute(select(t.turns).where(t.turns.c.id == turn_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"there is no turn {turn_id!r}")
    return turn_of(row)


def count_waiting(c: Connection, group_id: str) -> int:
    """Messages of the group that no turn has taken yet."""
    query = (
        select(func.count())
        .select_from(t.messages)
        .where(t.messages.c.group_id == group_id, t.messages.c.state == MessageState.QUEUED)
    )
    return c.scalar(query) or 0


def count_unanswered(c: Connection) -> int:
    """Messages of all groups that ask for an answer and do not have it yet."""
    query = select(func.count()).select_from(t.messages).where(t.OPEN, t.messages.c.wakes)
    return c.scalar(query) or 0


def groups_with_work(c: Connection, host: str) -> list[str]:
    """Groups that ``host`` may work for, with a turn that runs or a message that wakes the agent.

    Those that have waited longest come first.
    """
    running = select(t.turns.c.group_id, t.turns.c.started_at.label("at")).where(
        t.turns.c.finished_at.is_(None), t.turns.c.kind == TurnKind.CHAT
    )
    queued = select(t.messages.c.group_id, t.messages.c.created_at.label("at")).where(
        t.OPEN, t.messages.c.state == MessageState.QUEUED, t.messages.c.wakes
    )
    both = running.union_all(queued).subquery()
    query = (
        select(both.c.group_id)
        .where(both.c.group_id.in_(hosts.mine_or_free(c, host)))
        .group_by(both.c.group_id)
        .order_by(func.min(both.c.at))
    )
    return [str(r) for r in c.scalars(query)]


def has_work(c: Connection, group_id: str) -> bool:
    """Has the group a turn that runs, or a message that wakes the agent?"""
    waiting = select(_m.id).where(
        _m.group_id == group_id, _m.state == MessageState.QUEUED, _m.wakes
    )
    return _unfinished(c, group_id) is not None or c.scalar(waiting.limit(1)) is not None


def claim(c: Connection, group_id: str, host: str, event_id: int) -> Claim | Elsewhere | None:
    """The group's unfinished turn with a new attempt, or a new one of what waits."""
    group = hosts.take(c, group_id, host)
    if not isinstance(group, Group):
        return group
    if found := _unfinished(c, group_id):
        row, taken = found
        again = replace(turn_of(row), attempt=row["attempt"] + 1)
        c.execute(update(t.turns).where(t.turns.c.id == again.id).values(attempt=again.attempt))
        started = _log_start(c, again, taken, event_id)
        session = groups.session_of(c, group, again.session)
        return Claim(again, taken, started, group, session, tool_calls.answers(c, again.id))
    waiting = _next_batch(c, group_id)
    if not waiting:
        return None
    new = Turn(
        id=f"turn_{secrets.token_hex(12)}",
        group=group_id,
        state=TurnState.RUNNING,
        attempt=1,
        started_at=time.time(),
        session=waiting[0].session,
    )
    c.execute(
        insert(t.turns).values(
            id=new.id,
            group_id=group_id,
            state=new.state,
            attempt=1,
            started_at=new.started_at,
            session=new.session,
        )
    )
    claimed = tuple(
        replace(m, state=advance(MESSAGE_MOVES, m.state, MessageState.CLAIMED), turn_id=new.id)
        for m in waiting
    )
    c.execute(
        update(t.messages)
        .where(t.messages.c.id.in_([m.id for m in claimed]))
        .values(state=MessageState.CLAIMED, turn_id=new.id)
    )
    started = _log_start(c, new, claimed, event_id)
    return Claim(new, claimed, started, group, groups.session_of(c, group, new.session))


def finish(
    c: Connection,
    ended: Turn,
    log: Event,
    webhook: str = "",
    heard: Collection[str] = (),
) -> Event | None:
    """Write a turn's end, its messages' end, the event and the delivery that tell it.

    ``None``, and nothing written, when the turn is stale. ``webhook`` is where the group's answers
    go when no message of it has said. ``heard`` are the messages that joined the turn while it ran
    and reached the agent: others that joined wait for the next turn again, unless this one was
    cancelled, which ends what joined it too.
    """
    groups.lock(c, ended.group)
    if not fence.holds(c, ended):
        return None
    cancelled = ended.state is TurnState.CANCELLED
    if not cancelled and (released := turns.release_unheard(c, ended, heard)):
        log = replace(log, data={**log.data, "released": released})
    advance(TURN_MOVES, TurnState.RUNNING, ended.state)
    c.execute(
        update(t.turns)
        .where(t.turns.c.id == ended.id)
        .values(
            state=ended.state,
            generation=ended.generation,
            text=ended.text,
            error=ended.error,
            usage=asdict(ended.usage) if ended.usage else None,
            finished_at=ended.finished_at,
        )
    )
    after = advance(MESSAGE_MOVES, MessageState.CLAIMED, _AFTER_TURN[ended.state])
    c.execute(
        update(t.messages)
        .where(t.messages.c.turn_id == ended.id, t.messages.c.state == MessageState.CLAIMED)
        .values(state=after)
    )
    event_log.append(c, [log])
    event_log.prune(c, ended.group)
    outbox.conclude(c, ended, log, webhook)
    return log


def fit(
    before: list[Message], question: Message, after: list[Message]
) -> tuple[list[Message], list[Message]]:
    """What goes into one prompt, and the context that is too old to go into any. Pure.

    The newest words before the question count most; what came after it may wait for the next turn.
    """
    room = MAX_MESSAGES_PER_TURN - 1
    chars = MAX_CHARS_PER_TURN - len(question.text)

    def take(messages: Iterable[Message]) -> list[Message]:
        nonlocal room, chars
        taken: list[Message] = []
        for m in messages:
            if room == 0 or len(m.text) > chars:
                break
            room -= 1
            chars -= len(m.text)
            taken.append(m)
        return taken

    context = take(reversed(before))[::-1]
    following = take(after)
    return [*context, question, *following], before[: len(before) - len(context)]


def by_external_id(c: Connection, message: Message) -> Message | None:
    """The message that its channel sent under the same id before."""
    wanted = {
        "group": message.group,
        "channel": message.channel,
        "external_id": message.external_id,
    }
    row = c.execute(_BY_EXTERNAL_ID, wanted).mappings().first()
    return message_of(row) if row is not None else None


def _refuse_over(c: Connection, group_id: str, max_queue: int) -> None:
    waiting = c.scalar(_WAKING, {"group": group_id, "most": max_queue})
    if (waiting or 0) >= max_queue:
        raise BusyError(
            f"{waiting} messages of this group are waiting already",
            hint="wait for answers, or raise [host] max_queue",
            retry_after=5.0,
        )


def _drop_context(c: Connection, group_id: str, keep: int) -> None:
    """Keep the newest ``keep`` messages that wait as context."""
    if oldest := list(c.scalars(_OLD_CONTEXT, {"group": group_id, "keep": keep})):
        _drop(c, oldest)


def _drop(c: Connection, ids: list[str]) -> None:
    dropped = advance(MESSAGE_MOVES, MessageState.QUEUED, MessageState.DROPPED)
    c.execute(update(t.messages).where(t.messages.c.id.in_(ids)).values(state=dropped))


def _next_batch(c: Connection, group_id: str) -> list[Message]:
    """The first message that wakes the agent, with as much around it as one prompt holds.

    All of them belong to one conversation.
    """
    queued = select(t.messages).where(
        t.messages.c.group_id == group_id, t.messages.c.state == MessageState.QUEUED
    )
    seq = t.messages.c.seq
    first = c.execute(queued.where(t.messages.c.wakes).order_by(seq).limit(1)).mappings().first()
    if first is None:
        return []
    question = message_of(first)
    queued = queued.where(t.messages.c.session == question.session)
    before = queued.where(seq < question.seq).order_by(seq.desc()).limit(MAX_CONTEXT)
    after = queued.where(seq > question.seq).order_by(seq).limit(MAX_MESSAGES_PER_TURN)
    batch, left_out = fit(
        [message_of(r) for r in c.execute(before).mappings()][::-1],
        question,
        [message_of(r) for r in c.execute(after).mappings()],
    )
    if left_out:
        _drop(c, [m.id for m in left_out])
    return batch


def _unfinished(c: Connection, group_id: str) -> tuple[RowMapping, tuple[Message, ...]] | None:
    running = select(t.turns).where(
        t.turns.c.group_id == group_id,
        t.turns.c.state == TurnState.RUNNING,
        t.turns.c.kind == TurnKind.CHAT,
    )
    row = c.execute(running).mappings().first()
    if row is None:
        return None
    query = select(t.messages).where(t.messages.c.turn_id == row["id"]).order_by(t.messages.c.seq)
    return row, tuple(message_of(m) for m in c.execute(query).mappings())


def _log_start(c: Connection, turn: Turn, taken: Sequence[Message], event_id: int) -> Event:
    ids = tuple(m.id for m in taken)
    data = {"turn_id": turn.id, "attempt": turn.attempt, "message_ids": list(ids)}
    started = Event(event_id, turn.group, "turn.started", data, turn.id, ids)
    event_log.append(c, [started])
    return started
