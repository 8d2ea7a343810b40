"""What a transaction can do with scheduled tasks: functions of an open connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, or_, select, update

from runner.errors import ConflictError, NotFoundError
from runner.model import Task, TaskState
from runner.settings.problem import shorten
from runner.store import groups
from runner.store import schema as t
from runner.store.rows import task_of

KEPT_DONE = 20
"""Tasks of a group that are done and still shown."""

MAX_LISTED = 1_000


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task and what became of its last run: empty before the first, or when it is forgotten.

    ``last_status`` is the turn's state, or that of the message while no turn has taken it.
    """

    task: Task
    last_turn: str = ""
    last_status: str = ""


def add(c: Connection, task: Task, max_tasks: int) -> Task:
    """Write a new task.

    Raises:
        NotFoundError: there is no such group.
        ConflictError: ``too_many_tasks``: the group has ``max_tasks`` that are not done.
    """
    lock_group(c, task.group)
    own = select(func.count()).select_from(t.tasks).where(t.tasks.c.group_id == task.group)
    open_tasks = c.scalar(own.where(t.tasks.c.state != TaskState.DONE)) or 0
    if open_tasks >= max_tasks:
        raise ConflictError(
            f"the group has {open_tasks} tasks already",
            hint="cancel one that is not needed, or raise [tools.schedule_task] max_tasks",
            code="too_many_tasks",
        )
    c.execute(insert(t.tasks).values(**_row(task)))
    _forget_done(c, task.group)
    return task


def put(c: Connection, task: Task) -> None:
    """Write what a task has become."""
    c.execute(update(t.tasks).where(t.tasks.c.id == task.id).values(**_row(task)))


def remove(c: Connection, group_id: str, task_id: str) -> None:
    """Raises: NotFoundError."""
    need(c, task_id, group_id)
    c.execute(delete(t.tasks).where(t.tasks.c.id == task_id))
    name = session_name(task_id)
    c.execute(
        delete(t.sessions).where(t.sessions.c.group_id == group_id, t.sessions.c.name == name)
    )


def find(c: Connection, task_id: str) -> Task | None:
    row = c.execute(select(t.tasks).where(t.tasks.c.id == task_id)).mappings().first()
    return task_of(row) if row is not None else None


def need(c: Connection, task_id: str, group_id: str | None = None) -> Task:
    """The task, of this group if one is named. Raises: NotFoundError."""
    task = find(c, task_id)
    if task is None or group_id not in (None, task.group):
        whose = "there is no task" if group_id is None else "the group has no task"
        raise NotFoundError(
            f"{whose} {shorten(task_id)!r}", hint="`nanokimi tasks list` shows what there is"
        )
    return task


def lock_group(c: Connection, group_id: str) -> None:
    """Nobody else changes the group's tasks until this transaction ends. Raises: NotFoundError."""
    if groups.lock(c, group_id) is None:
        groups.need(c, group_id)


def info(c: Connection, task_id: str, group_id: str | None = None) -> TaskInfo:
    """A task with its last run. Raises: NotFoundError."""
    need(c, task_id, group_id)
    row = c.execute(_with_last_run().where(t.tasks.c.id == task_id)).mappings().one()
    return _info_of(row)


def find_all(c: Connection, group_id: str | None = None) -> list[TaskInfo]:
    """The tasks of one group, or of all, oldest first. Raises: NotFoundError."""
    query = _with_last_run().order_by(t.tasks.c.created_at, t.tasks.c.id).limit(MAX_LISTED)
    if group_id is not None:
        groups.need(c, group_id)
        query = query.where(t.tasks.c.group_id == group_id)
    return [_info_of(r) for r in c.execute(query).mappings()]


def due(
    c: Connection, now: float, after: tuple[float, str] = (0.0, ""), limit: int = 100
) -> list[Task]:
    """Active tasks whose time has come, longest due first; those behind ``after`` only.

    ``after`` is ``(next_at, id)`` of the last one that the caller has seen.
    """
    at, id_ = after
    query = (
        select(t.tasks)
        .where(
            t.tasks.c.state == TaskState.ACTIVE,
            t.tasks.c.next_at <= now,
            or_(t.tasks.c.next_at > at, (t.tasks.c.next_at == at) & (t.tasks.c.id > id_)),
        )
        .order_by(t.tasks.c.next_at, t.tasks.c.id)
        .limit(limit)
    )
    return [task_of(r) for r in c.execute(query).mappings()]


def next_due(c: Connection, after: float) -> float | None:
    """When the next active task is due that is not due at ``after`` yet."""
    query = select(func.min(t.tasks.c.next_at)).where(
        t.tasks.c.state == TaskState.ACTIVE, t.tasks.c.next_at > after
    )
    found: float | None = c.scalar(query)
    return found


def session_name(task_id: str) -> str:
    """The conversation of a task that has its own."""
    return f"task:{task_id}"


def _forget_done(c: Connection, group_id: str) -> None:
    old = (
        select(t.tasks.c.id)
        .where(t.tasks.c.group_id == group_id, t.tasks.c.state == TaskState.DONE)
        .order_by(t.tasks.c.last_at.desc(), t.tasks.c.id)
        .offset(KEPT_DONE)
    )
    for task_id in list(c.scalars(old)):
        remove(c, group_id, task_id)


def _with_last_run() -> Select[Any]:
    return (
        select(
            t.tasks,
            t.messages.c.state.label("message_state"),
            t.turns.c.id.label("turn"),
            t.turns.c.state.label("turn_state"),
        )
        .outerjoin(t.messages, t.messages.c.id == t.tasks.c.last_message_id)
        .outerjoin(t.turns, t.turns.c.id == t.messages.c.turn_id)
    )


def _info_of(row: Any) -> TaskInfo:
    return TaskInfo(
        task_of(row), row["turn"] or "", row["turn_state"] or row["message_state"] or ""
    )


def _row(task: Task) -> dict[str, object]:
    return {
        "id": task.id,
        "group_id": task.group,
        "prompt": task.prompt,
        "kind": task.kind,
        "spec": task.spec,
        "timezone": task.timezone,
        "next_at": task.next_at,
        "state": task.state,
        "session": task.session,
        "missed": task.missed,
        "created_by": task.created_by,
        "created_at": task.created_at,
        "last_at": task.last_at,
        "last_message_id": task.last_message_id,
        "runs": task.runs,
        "reply_url": task.reply_url,
    }
