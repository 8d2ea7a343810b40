"""The tools for scheduled tasks. What a task may be, the desk of tasks says."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field

from runner.host.tools.policy import asking
from runner.host.tools.tool import AnyTool, Arguments, Connection, Context, Effect, Tool, ToolError
from runner.model import Task
from runner.schedule import ScheduleKind
from runner.store import tasks
from runner.store.task_desk import MAX_PROMPT, NewTask, TaskChange, Tasks, Work
from runner.store.tasks import TaskInfo

_Kind = Literal["cron", "interval", "once"]
_WHEN = (
    'for cron five fields, like "0 9 * * 1-5"; for interval a duration, like "30m" or "6h"; '
    'for once a local time, like "2027-01-31T09:00"'
)
_ZONE = 'IANA name, like "Europe/Zurich"; empty for the usual one.'
_GROUP = "Id of another group that it is about; empty for this one."
_ID_CHARS = 100


class New(Arguments):
    prompt: str = Field(
        min_length=1,
        max_length=MAX_PROMPT,
        description="What to do each time; it has to make sense by itself.",
    )
    kind: _Kind
    when: str = Field(min_length=1, max_length=200, description=_WHEN)
    timezone: str = Field("", max_length=100, description=_ZONE)
    session: Literal["own", "group"] = Field(
        "own",
        description="own: a conversation of its own; group: goes on with this group's.",
    )


class NewAnywhere(New):
    group: str = Field("", description=_GROUP)


class Which(Arguments):
    task_id: str = Field(min_length=1, max_length=_ID_CHARS)


class WhichAnywhere(Which):
    group: str = Field("", description=_GROUP)


class Whose(Arguments):
    pass


class WhoseAnywhere(Whose):
    group: str = Field("", description=_GROUP)


class Change(Which):
    prompt: str | None = Field(None, max_length=MAX_PROMPT, description="New words.")
    kind: _Kind | None = Field(None, description="Give it together with when.")
    when: str | None = Field(None, max_length=200, description=_WHEN)
    timezone: str | None = Field(None, max_length=100, description=_ZONE)
    session: Literal["own", "group"] | None = None


class ChangeAnywhere(Change):
    group: str = Field("", description=_GROUP)


class ScheduleTask(Tool[New]):
    """The task runs for the person with the least rights of those who asked for it."""

    name = "schedule_task"
    description = (
        "Have something done later, once or again and again. Each run is a turn of yours with the "
        "given prompt, and its answer goes to the chat."
    )
    arguments = New
    admin_arguments = NewAnywhere
    table = "schedule_task"

    def __init__(self, desk: Tasks) -> None:
        self._desk = desk

    async def call(self, context: Context, arguments: New) -> str:
        group = await _group(context, arguments)
        new = NewTask(
            prompt=arguments.prompt,
            kind=ScheduleKind(arguments.kind),
            when=arguments.when,
            timezone=arguments.timezone,
            session=arguments.session,
        )
        adding = self._desk.adding(group, new, created_by=_person(context))
        return await _write(context, self._desk, adding, "scheduled")


class ListTasks(Tool[Whose]):
    name = "list_tasks"
    description = "List the scheduled tasks with their ids, times and last results."
    arguments = Whose
    admin_arguments = WhoseAnywhere
    table = "schedule_task"
    looks = True

    def __init__(self, desk: Tasks) -> None:
        self._desk = desk

    async def call(self, context: Context, arguments: Whose) -> str:
        group = await _group(context, arguments)
        found = await context.read(lambda c: tasks.find_all(c, group))
        return "\n\n".join(map(_told, found)) or "there are no scheduled tasks"


class PauseTask(Tool[Which]):
    name = "pause_task"
    description = "Have a scheduled task not run until it is resumed."
    arguments = Which
    admin_arguments = WhichAnywhere
    table = "schedule_task"

    def __init__(self, desk: Tasks) -> None:
        self._desk = desk

    async def call(self, context: Context, arguments: Which) -> str:
        group = await _group(context, arguments)
        return await _write(
            context, self._desk, self._desk.pausing(group, arguments.task_id), "paused"
        )


class ResumeTask(Tool[Which]):
    name = "resume_task"
    description = "Have a paused task run again from now on."
    arguments = Which
    admin_arguments = WhichAnywhere
    table = "schedule_task"

    def __init__(self, desk: Tasks) -> None:
        self._desk = desk

    async def call(self, context: Context, arguments: Which) -> str:
        group = await _group(context, arguments)
        return await _write(
            context, self._desk, self._desk.resuming(group, arguments.task_id), "resumed"
        )


class UpdateTask(Tool[Change]):
    """Who gives a task new words is who it runs for from then on."""

    name = "update_task"
    description = "Change a scheduled task; what is left out stays as it is."
    arguments = Change
    admin_arguments = ChangeAnywhere
    table = "schedule_task"

    def __init__(self, desk: Tasks) -> None:
        self._desk = desk

    async def call(self, context: Context, arguments: Change) -> str:
        group = await _group(context, arguments)
        if (arguments.kind is None) != (arguments.when is None):
            raise ToolError("kind and when come together", hint="give both, or neither")
        change = TaskChange(
            prompt=arguments.prompt,
            kind=None if arguments.kind is None else ScheduleKind(arguments.kind),
            when=arguments.when,
            timezone=arguments.timezone,
            session=arguments.session,
        )
        updating = self._desk.updating(group, arguments.task_id, change, by=_person(context))
        return await _write(context, self._desk, updating, "updated")


class CancelTask(Tool[Which]):
    name = "cancel_task"
    description = "Remove a scheduled task for good."
    arguments = Which
    admin_arguments = WhichAnywhere
    table = "schedule_task"

    def __init__(self, desk: Tasks) -> None:
        self._desk = desk

    async def call(self, context: Context, arguments: Which) -> str:
        group = await _group(context, arguments)
        return await _write(
            context, self._desk, self._desk.cancelling(group, arguments.task_id), "cancelled"
        )


def task_tools(desk: Tasks) -> tuple[AnyTool, ...]:
    """All of them, in the order in which agents are told."""
    kinds = (ScheduleTask, ListTasks, PauseTask, ResumeTask, UpdateTask, CancelTask)
    return tuple(kind(desk) for kind in kinds)


async def _group(context: Context, arguments: Arguments) -> str:
    group = getattr(arguments, "group", "")
    assert isinstance(group, str)
    return await context.target(group)


def _person(context: Context) -> str:
    """Who a task of this turn runs for: nobody of it may gain rights by a task."""
    least = asking(context.messages)
    return least.sender_id if least is not None else ""


async def _write(context: Context, desk: Tasks, change: Work[Task], done: str) -> str:
    def work(c: Connection, event_id: int) -> Effect:
        del event_id  # a task is told of when it runs
        return Effect(f"{done}: {_told(TaskInfo(change(c)))}")

    told = await context.once(work)
    desk.changed()
    return told


def _told(info: TaskInfo) -> str:
    task = info.task
    lines = [f"{task.id} ({task.state}): {task.kind} {task.spec}, {task.timezone}"]
    if task.next_at is not None:
        at = datetime.fromtimestamp(task.next_at, ZoneInfo(task.timezone))
        lines.append(f"next run: {at.isoformat(timespec='seconds')}")
    if info.last_status:
        lines.append(f"last run: {info.last_status}")
    lines.append(f"prompt: {task.prompt if len(task.prompt) <= 300 else task.prompt[:299] + '…'}")
    return "\n".join(lines)
