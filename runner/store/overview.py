"""What a group is doing, in one look: functions of an open connection."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from runner.model import Group, TaskState, Turn, TurnKind, TurnState
from runner.store import groups, queue
from runner.store import schema as t
from runner.store.rows import turn_of
from runner.store.silence import TASK_CHANNEL


@dataclass(frozen=True, slots=True)
class Overview:
    """``askers`` are the names of those whose messages the running ``turn`` answers."""

    group: Group
    turn: Turn | None
    askers: tuple[str, ...]
    waiting: int
    tasks: int


def overview(c: Connection, group_id: str) -> Overview:
    """Raises: NotFoundError."""
    group = groups.need(c, group_id)
    turn = running_chat(c, group_id)
    m = t.messages.c
    asked = select(m.sender).where(m.turn_id == turn.id, m.wakes).order_by(m.seq) if turn else None
    tasks = (
        select(func.count())
        .select_from(t.tasks)
        .where(t.tasks.c.group_id == group_id, t.tasks.c.state == TaskState.ACTIVE)
    )
    return Overview(
        group,
        turn,
        tuple(c.scalars(asked)) if asked is not None else (),
        queue.count_waiting(c, group_id),
        c.scalar(tasks) or 0,
    )


def running_chat(c: Connection, group_id: str) -> Turn | None:
    """The turn in which the group's agent works, if there is one."""
    query = select(t.turns).where(
        t.turns.c.group_id == group_id,
        t.turns.c.state == TurnState.RUNNING,
        t.turns.c.kind == TurnKind.CHAT,
    )
    row = c.execute(query).mappings().first()
    return turn_of(row) if row is not None else None


def asked_for(c: Connection, turn_id: str, person: str) -> bool:
    """Is one of the messages that began this turn from ``person``?

    Those that joined it do not count: anybody may say something while it works. An operator's
    task is nobody's either.
    """
    m = t.messages.c
    began = (m.turn_id == turn_id, m.wakes, ~m.steered)
    query = select(m.id).where(*began, m.sender_id == person).limit(1)
    if not person:
        query = query.where(m.channel != TASK_CHANNEL)
    return c.scalar(query) is not None
