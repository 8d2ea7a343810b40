"""Scheduled tasks as people and agents deal with them: what may be asked, within the limits.

Each change is there twice: as work for a transaction that does more than this (``adding``), and
as the transaction (``add``). Whoever uses the first says :meth:`Tasks.changed` after the commit.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from sqlalchemy import Connection

from runner.errors import ConflictError, PermanentError
from runner.model import TASK_MOVES, Task, TaskState, advance
from runner.schedule import Schedule, ScheduleKind, check_timezone, next_run, parse_schedule
from runner.settings import tables
from runner.store import groups, tasks
from runner.store.store import Store
from runner.store.tasks import TaskInfo

_T = TypeVar("_T")
Work = Callable[[Connection], _T]
Session = Literal["own", "group"]
Missed = Literal["once", "skip"]

MAX_PROMPT = 32_000


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """``[tools.schedule_task]``: ``min_interval`` in seconds; the rest for who says nothing."""

    max_tasks: int
    min_interval: float
    timezone: str
    missed: str


def task_limits(table: tables.Schedule) -> TaskLimits:
    """The limits that the settings say."""
    return TaskLimits(table.max_tasks, table.min_interval, table.timezone, table.missed)


@dataclass(frozen=True, slots=True)
class NewTask:
    """What somebody wants done: ``when`` is in the words of its ``kind``.

    ``timezone`` and ``missed`` empty are those of the limits.
    """

    prompt: str
    kind: ScheduleKind
    when: str
    timezone: str = ""
    session: Session = "own"
    missed: Missed | Literal[""] = ""
    reply_url: str = ""


@dataclass(frozen=True, slots=True)
class TaskChange:
    """What shall be different; ``None`` stays. ``kind`` and ``when`` come together.

    ``paused`` true or false is what :meth:`Tasks.pause` and :meth:`Tasks.resume` do, after the
    rest.
    """

    prompt: str | None = None
    kind: ScheduleKind | None = None
    when: str | None = None
    timezone: str | None = None
    session: Session | None = None
    missed: Missed | None = None
    reply_url: str | None = None
    paused: bool | None = None


class Tasks:
    """Over an open :class:`Store`, and closed with it.

    Every method and every work raises :class:`~runner.errors.NotFoundError` for a group that is
    not there and for a task that is not the group's.
    """

    def __init__(
        self,
        store: Store,
        limits: Callable[[], TaskLimits],
        *,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self.changed = changed
        """Tell the scheduler that another time may be the next."""

    async def list(self, group_id: str | None = None) -> Sequence[TaskInfo]:
        """The group's tasks, or everyone's, oldest first, 1,000 at most; also what is done."""
        return await self._store.read(lambda c: tasks.find_all(c, group_id))

    async def show(self, task_id: str, group_id: str | None = None) -> TaskInfo:
        """One task, of whatever group it is unless that is said."""
        return await self._store.read(lambda c: tasks.info(c, task_id, group_id))

    async def add(
        self, group_id: str, new: NewTask, *, created_by: str = "", make_group: bool = False
    ) -> Task:
        """See :meth:`adding`."""
        return await self._write(
            self.adding(group_id, new, created_by=created_by, make_group=make_group)
        )

    async def update(
        self, group_id: str, task_id: str, change: TaskChange, *, by: str | None = None
    ) -> Task:
        """See :meth:`updating`."""
        return await self._write(self.updating(group_id, task_id, change, by=by))

    async def pause(self, group_id: str, task_id: str) -> Task:
        """See :meth:`pausing`."""
        return await self._write(self.pausing(group_id, task_id))

    async def resume(self, group_id: str, task_id: str) -> Task:
        """See :meth:`resuming`."""
        return await self._write(self.resuming(group_id, task_id))

    async def cancel(self, group_id: str, task_id: str) -> Task:
        """See :meth:`cancelling`."""
        return await self._write(self.cancelling(group_id, task_id))

    # -- work for a transaction -----------------------------------------------------------------

    def adding(
        self, group_id: str, new: NewTask, *, created_by: str = "", make_group: bool = False
    ) -> Work[Task]:
        """A new task.

        Args:
            created_by: the person for whom it runs, with that person's role; empty for a member.
            make_group: a group that is not there is made.

        Raises:
            PermanentError: ``bad_schedule``, ``bad_timezone`` or ``bad_prompt``.
            ConflictError: ``too_many_tasks``.
        """
        limits, now = self._limits(), self._clock()
        _check_prompt(new.prompt)
        schedule = parse_schedule(
            new.kind,
            new.when,
            new.timezone or limits.timezone,
            now=now,
            min_interval=limits.min_interval,
        )
        task = Task(
            id=f"task_{secrets.token_hex(6)}",
            group=group_id,
            prompt=new.prompt,
            kind=schedule.kind,
            spec=schedule.spec,
            timezone=schedule.timezone,
            next_at=next_run(schedule, now),
            session=new.session,
            missed=new.missed or limits.missed,
            created_by=created_by,
            created_at=now,
            reply_url=new.reply_url,
        )

        def work(c: Connection) -> Task:
            if make_group:
                groups.put(c, group_id)
            return tasks.add(c, task, limits.max_tasks)

        return work

    def updating(
        self, group_id: str, task_id: str, change: TaskChange, *, by: str | None = None
    ) -> Work[Task]:
        """Another prompt, time or setting; a task that is done is active again with a new time.

        Args:
            by: the person who wants it. Who gives a task new words is who it runs for from then
                on; ``None`` (the operator) leaves it whose it was.

        Raises:
            PermanentError: as in :meth:`adding`.
            ConflictError: as in :meth:`pausing` and :meth:`resuming`.
        """
        if change.prompt is not None:
            _check_prompt(change.prompt)

        def changed(task: Task) -> Task:
            new = replace(
                task,
                prompt=task.prompt if change.prompt is None else change.prompt,
                session=task.session if change.session is None else change.session,
                missed=task.missed if change.missed is None else change.missed,
                reply_url=task.reply_url if change.reply_url is None else change.reply_url,
                created_by=task.created_by if by is None or change.prompt is None else by,
            )
            new = self._rescheduled(new, change)
            if change.paused is None:
                return new
            return _paused(new) if change.paused else self._resumed(new)

        return self._changing(group_id, task_id, changed)

    def pausing(self, group_id: str, task_id: str) -> Work[Task]:
        """No more runs until it is resumed. Raises: ConflictError: it is done."""
        return self._changing(group_id, task_id, _paused)

    def resuming(self, group_id: str, task_id: str) -> Work[Task]:
        """Runs from now on; those that a pause left out stay out.

        Raises:
            ConflictError: it is done, or its only time has passed.
        """
        return self._changing(group_id, task_id, self._resumed)

    def cancelling(self, group_id: str, task_id: str) -> Work[Task]:
        """The task is gone; a run that has begun goes on. Gives what it was."""

        def work(c: Connection) -> Task:
            tasks.lock_group(c, group_id)
            task = tasks.need(c, task_id, group_id)
            tasks.remove(c, group_id, task_id)
            return task

        return work

    # -- inside ---------------------------------------------------------------------------------

    async def _write(self, work: Work[Task]) -> Task:
        task = await self._store.transact(work)
        self.changed()
        return task

    def _changing(self, group_id: str, task_id: str, change: Callable[[Task], Task]) -> Work[Task]:
        def work(c: Connection) -> Task:
            tasks.lock_group(c, group_id)
            task = change(tasks.need(c, task_id, group_id))
            tasks.put(c, task)
            return task

        return work

    def _rescheduled(self, task: Task, change: TaskChange) -> Task:
        if change.when is None and change.timezone is None:
            return task
        kind = ScheduleKind(task.kind) if change.kind is None else change.kind
        timezone = change.timezone or task.timezone
        if change.when is None and kind is not ScheduleKind.CRON:  # the moments stay as they are
            return replace(task, timezone=check_timezone(timezone))
        schedule = parse_schedule(
            kind,
            task.spec if change.when is None else change.when,
            timezone,
            now=self._floor(task),
            min_interval=self._limits().min_interval,
        )
        task = replace(task, kind=schedule.kind, spec=schedule.spec, timezone=schedule.timezone)
        if task.state is TaskState.PAUSED:
            return task
        if task.state is TaskState.DONE:
            task = replace(task, state=advance(TASK_MOVES, task.state, TaskState.ACTIVE))
        return replace(task, next_at=next_run(schedule, self._floor(task)))

    def _resumed(self, task: Task) -> Task:
        if task.state is TaskState.ACTIVE:
            return task
        _refuse_done(task)
        next_at = next_run(schedule_of(task), self._floor(task))
        if next_at is None:
            raise ConflictError(
                f"the time of the task {task.id} has passed",
                hint="update it with a new time",
                code="task_over",
            )
        return replace(
            task, state=advance(TASK_MOVES, task.state, TaskState.ACTIVE), next_at=next_at
        )

    def _floor(self, task: Task) -> float:
        """No run is due before this: a clock that was set back brings none a second time."""
        return max(self._clock(), task.last_at or 0.0)


def schedule_of(task: Task) -> Schedule:
    """When a stored task is due."""
    return Schedule(ScheduleKind(task.kind), task.spec, task.timezone)


def _paused(task: Task) -> Task:
    if task.state is TaskState.PAUSED:
        return task
    _refuse_done(task)
    return replace(task, state=advance(TASK_MOVES, task.state, TaskState.PAUSED), next_at=None)


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise _bad_prompt("a task needs a prompt", "say what is to be done")
    if len(prompt) > MAX_PROMPT:
        raise _bad_prompt(
            f"the prompt has {len(prompt)} characters, {MAX_PROMPT} are allowed",
            "put the long part into a file of the workspace",
        )
    if "\0" in prompt or any("\ud800" <= char <= "\udfff" for char in prompt):
        raise _bad_prompt(
            "the prompt holds a character that cannot be stored",
            "leave out NUL and lone surrogates",
        )


def _bad_prompt(message: str, hint: str) -> PermanentError:
    return PermanentError(message, hint=hint, code="bad_prompt")


def _refuse_done(task: Task) -> None:
    if task.state is TaskState.DONE:
        raise ConflictError(
            f"the task {task.id} is done",
            hint="update it with a new time to have it again",
            code="task_over",
        )
