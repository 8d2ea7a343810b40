"""What a transaction can do with chat commands: functions of an open connection.

A command is a message with a turn of its own, which the host runs itself. It is written with that
turn, running, so that a host which dies finds it again; while it runs, the turn's text holds what
was asked, and afterwards the answer.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection, func, insert, select, update

from runner.errors import BusyError
from runner.model import (
    MESSAGE_MOVES,
    Event,
    Message,
    MessageState,
    Turn,
    TurnKind,
    TurnState,
    advance,
)
from runner.store import event_log, groups, hosts, overview, queue
from runner.store import schema as t
from runner.store.queue import Accepted
from runner.store.rows import message_of, turn_of

MAX_OPEN = 20
"""Commands of one group that may be under way at one time."""


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked: the words of the command, and the turn that ran in ``target`` just then.

    ``running_turn`` is what a command that ends a turn means, whenever it is carried out.
    """

    name: str
    target: str
    argument: str = ""
    running_turn: str = ""

    @classmethod
    def read(cls, turn: Turn) -> Order:
        """Of a command's turn that has not ended."""
        return cls(**json.loads(turn.text))


@dataclass(frozen=True, slots=True)
class Forget:
    """The conversations of a group are forgotten."""

    group: str


@dataclass(frozen=True, slots=True)
class Choose:
    """A group's model is this alias; empty for the configured one."""

    group: str
    alias: str


Effect = Forget | Choose | None
"""What a command changes in the store, in the transaction that writes its answer."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A command that is on disk; ``turn`` is ``None`` for a duplicate."""

    accepted: Accepted
    turn: Turn | None


def issue(
    c: Connection, message: Message, order: Order, turn: Turn, accepted: Event, started: Event
) -> Issued:
    """Write a command, its running turn and both events. Raises: BusyError."""
    if groups.lock(c, message.group) is None:
        groups.put(c, message.group)
        groups.lock(c, message.group)
    if message.external_id is not None and (known := queue.by_external_id(c, message)):
        same = order.name if known.text == message.text else ""
        return Issued(Accepted(known, duplicate=True, command=same), None)
    _refuse_over(c, message.group)
    if message.reply_url:
        groups.change(c, message.group, reply_url=message.reply_url)
    running = overview.running_chat(c, order.target)
    order = replace(order, running_turn=running.id if running else "")
    turn = replace(turn, text=json.dumps(asdict(order)))
    c.execute(
        insert(t.turns).values(
            id=turn.id,
            group_id=turn.group,
            state=turn.state,
            kind=turn.kind,
            attempt=turn.attempt,
            text=turn.text,
            started_at=turn.started_at,
        )
    )
    state = advance(MESSAGE_MOVES, message.state, MessageState.CLAIMED)
    message = replace(message, state=state, turn_id=turn.id)
    message = replace(message, seq=queue.insert_message(c, message))
    mine = update(t.messages).where(t.messages.c.id == message.id)
    c.execute(mine.values(turn_id=turn.id))
    event_log.append(c, [accepted, started])
    return Issued(Accepted(message, duplicate=False, command=order.name), turn)


def finish(c: Connection, ended: Turn, log: Event, webhook: str, effect: Effect) -> bool:
    """Write a command's answer and its effect; False, and nothing written, when it is stale.

    Raises:
        NotFoundError: the group that it changes is gone.
    """
    if queue.finish(c, ended, log, webhook) is None:
        return False
    match effect:
        case Forget(group):
            groups.forget_sessions(c, group)
        case Choose(group, alias):
            groups.change(c, group, model=alias)
    return True


def unfinished(c: Connection, host: str) -> list[tuple[Turn, bool]]:
    """Commands that ``host`` may carry out, oldest first, each with whether nobody else would.

    They are those for groups which no other living host has.
    """
    query = select(t.turns).where(
        t.turns.c.finished_at.is_(None), t.turns.c.kind == TurnKind.COMMAND
    )
    found = []
    for row in c.execute(query.order_by(t.turns.c.started_at)).mappings():
        target = Order.read(turn := turn_of(row)).target
        if may_run(c, target, host):
            group = groups.find(c, target)
            found.append((turn, group is not None and group.owner == host))
    return found


def may_run(c: Connection, group_id: str, host: str) -> bool:
    """Is the group this host's, or nobody's, or not there?"""
    group = groups.find(c, group_id)
    free = hosts.mine_or_free(c, host).where(t.groups.c.id == group_id)
    return group is None or c.scalar(free) is not None


def take(c: Connection, turn: Turn) -> tuple[Turn, Message] | None:
    """Carry on with a command as its next attempt; ``None``: it has ended, or others took it."""
    again = replace(turn, attempt=turn.attempt + 1)
    done = c.execute(
        update(t.turns)
        .where(
            t.turns.c.id == turn.id,
            t.turns.c.state == TurnState.RUNNING,
            t.turns.c.attempt == turn.attempt,
        )
        .values(attempt=again.attempt)
    )
    if not done.rowcount:
        return None
    query = select(t.messages).where(t.messages.c.turn_id == turn.id)
    return again, message_of(c.execute(query).mappings().one())


def _refuse_over(c: Connection, group_id: str) -> None:
    query = (
        select(func.count())
        .select_from(t.turns)
        .where(
            t.turns.c.group_id == group_id,
            t.turns.c.state == TurnState.RUNNING,
            t.turns.c.kind == TurnKind.COMMAND,
        )
    )
    if (c.scalar(query) or 0) >= MAX_OPEN:
        raise BusyError(
            f"{MAX_OPEN} commands of this group are under way already",
            hint="wait for their answers",
            retry_after=5.0,
        )
