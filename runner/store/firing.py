"""A due task becomes a message, and gets its next time, in one transaction.

The task's ``next_at`` decides: who finds it changed comes too late, whether it is another host or
the same one after a crash. So a due time has its message once, and none is left out unseen.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlalchemy import Connection, func, select

from runner.model import (
    TASK_MOVES,
    Event,
    Message,
    MessageState,
    Role,
    Task,
    TaskState,
    advance,
)
from runner.schedule import ScheduleKind, describe, following, local_time
from runner.store import event_log, groups, queue, tasks
from runner.store import schema as t
from runner.store.silence import TASK_CHANNEL
from runner.store.task_desk import schedule_of

MESSAGE_ACCEPTED = "message.accepted"
TASK_SKIPPED = "task.skipped"


class Why(StrEnum):
    """Why a due task has no run now."""

    MISSED = "missed"
    STILL_RUNNING = "still_running"
    NOT_ALLOWED = "not_allowed"
    QUEUE_FULL = "queue_full"


@dataclass(frozen=True, slots=True)
class Run:
    """The task gets its message."""


@dataclass(frozen=True, slots=True)
class Skip:
    """No message for this time; on to the next one."""

    why: Why


@dataclass(frozen=True, slots=True)
class Postpone:
    """The time stays due, to be looked at again soon."""

    why: Why


Decision = Run | Skip | Postpone


@dataclass(frozen=True, slots=True)
class Terms:
    """What the host knows when a task is due; times are Unix seconds.

    ``missed_before``: what was due before it fell into a downtime. ``role`` is what the person is
    now for whom the task runs. ``held``: the group's messages wait for a login. ``event_id`` is
    reserved for the event that tells of it.
    """

    now: float
    missed_before: float
    max_queue: int
    role: Role
    held: bool
    event_id: int


@dataclass(frozen=True, slots=True)
class Fired:
    """What was decided of a due task; ``task`` is as it is after that, ``event`` is on disk."""

    decision: Decision
    task: Task
    event: Event | None = None


def decide(task: Task, terms: Terms, *, still_runs: bool, full: bool) -> Decision:
    """What becomes of a task that is due. Pure.

    A run whose former one still waits or works is left out, so that runs never pile up. Of a
    task that comes once none is left out for that.
    """
    if terms.role is Role.BLOCKED:
        return Skip(Why.NOT_ALLOWED)
    if task.missed == "skip" and task.next_at is not None and task.next_at < terms.missed_before:
        return Skip(Why.MISSED)
    if still_runs:
        once = task.kind == ScheduleKind.ONCE
        return Postpone(Why.STILL_RUNNING) if once else Skip(Why.STILL_RUNNING)
    if full:
        return Postpone(Why.QUEUE_FULL)
    return Run()


def fire(c: Connection, seen: Task, terms: Terms) -> Fired | None:
    """Carry out what is decided of a task that was ``seen`` to be due.

    ``None``: it is not due any more; another host, or whoever changed it, came first.
    """
    if groups.lock(c, seen.group) is None:
        return None
    task = tasks.find(c, seen.id)
    if task is None or task.state is not TaskState.ACTIVE or task.next_at != seen.next_at:
        return None
    due = task.next_at
    if due is None or due > terms.now:
        return None
    decision = decide(
        task, terms, still_runs=_still_runs(c, task), full=_is_full(c, task.group, terms.max_queue)
    )
    if isinstance(decision, Postpone):
        return Fired(decision, task)
    after = replace(task, next_at=following(schedule_of(task), due, terms.now))
    if after.next_at is None:
        after = replace(after, state=advance(TASK_MOVES, task.state, TaskState.DONE))
    about: dict[str, object] = {"task_id": task.id, "due": local_time(due, task.timezone)}
    if isinstance(decision, Skip):
        tasks.put(c, after)
        event = Event(
            terms.event_id, task.group, TASK_SKIPPED, {**about, "reason": str(decision.why)}
        )
    else:
        message = message_of_run(task, due, terms)
        after = replace(after, last_at=due, last_message_id=message.id, runs=task.runs + 1)
        tasks.put(c, after)
        queue.insert_message(c, message)
        event = Event(
            terms.event_id,
            task.group,
            MESSAGE_ACCEPTED,
            {
                "message_id": message.id,
                "sender": message.sender,
                "wakes": True,
                "held": terms.held,
                **about,
            },
            message_ids=(message.id,),
        )
    event_log.append(c, [event])
    return Fired(decision, after, event)


def message_of_run(task: Task, due: float, terms: Terms) -> Message:
    """The message that a run is."""
    return Message(
        id=f"msg_{secrets.token_hex(12)}",
        group=task.group,
        seq=0,
        text=task.prompt,
        sender="schedule",
        external_id=f"{task.id}:{due:.3f}",
        created_at=terms.now,
        metadata={
            "task": {
                "id": task.id,
                "schedule": describe(schedule_of(task)),
                "due": local_time(due, task.timezone),
            }
        },
        channel=TASK_CHANNEL,
        sender_id=task.created_by,
        role=terms.role,
        session=tasks.session_name(task.id) if task.session == "own" else "",
        reply_url=task.reply_url,
    )


def _still_runs(c: Connection, task: Task) -> bool:
    query = select(t.messages.c.id).where(
        t.messages.c.id == task.last_message_id,
        t.messages.c.state.in_((MessageState.QUEUED, MessageState.CLAIMED)),
    )
    return c.scalar(query) is not None


def _is_full(c: Connection, group_id: str, max_queue: int) -> bool:
    waiting = (
        select(t.messages.c.id)
        .where(
            t.messages.c.group_id == group_id,
            t.messages.c.state == MessageState.QUEUED,
            t.messages.c.wakes,
        )
        .limit(max_queue)
    )
    return (c.scalar(select(func.count()).select_from(waiting.subquery())) or 0) >= max_queue
