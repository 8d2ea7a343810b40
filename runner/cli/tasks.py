"""``nanokimi tasks``: what agents do at set times; against the running host, or the store."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Protocol

import typer
from pydantic import ValidationError

from runner.api.client import Api, group_path
from runner.api.task_bodies import NewTaskIn, TaskChangeIn, TaskList, TaskOut
from runner.cli.connection import offline_store, serving_api
from runner.cli.context import Context, context_of, run
from runner.cli.output import note, out, plain, show_json, table
from runner.cli.wide import show_wide
from runner.errors import ConfigError, NotFoundError
from runner.host.lock import host_lock
from runner.host.people import People, check_group_id
from runner.schedule import Schedule, ScheduleKind, describe
from runner.settings.problem import shorten
from runner.store.task_desk import Tasks, task_limits
from runner.store.tasks import TaskInfo

app = typer.Typer(help="What agents do at set times.", no_args_is_help=True)

TaskArgument = Annotated[str, typer.Argument(help="The task's id, see `nanokimi tasks list`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]


@app.command("list")
def list_tasks(
    ctx: typer.Context,
    group: Annotated[str, typer.Argument(help="Only this group's.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Tasks with their next and last runs."""
    context = context_of(ctx)
    found = run(lambda: _list(context, group))
    if as_json:
        show_json([t.model_dump() for t in found])
        return
    if not found:
        note('no tasks yet: nanokimi tasks add GROUP "what to do" --cron "0 9 * * 1-5"')
        return
    shown = table("TASK", "GROUP", "WHEN", "NEXT RUN", "LAST RUN", "PROMPT")
    shown.columns[0].no_wrap = shown.columns[3].no_wrap = True
    for t in found:
        shown.add_row(
            t.task_id, plain(t.group), plain(_when(t)), _next(t), _last(t), plain(_short(t.prompt))
        )
    show_wide(shown, names=0)


@app.command("add")
def add(
    ctx: typer.Context,
    group: Annotated[str, typer.Argument(help="The group's id.")],
    prompt: Annotated[str, typer.Argument(help="What the agent is to do each time.")],
    cron: Annotated[
        str,
        typer.Option(metavar="FIELDS", help='Like "0 9 * * 1-5": minute hour day month weekday.'),
    ] = "",
    every: Annotated[str, typer.Option(metavar="DURATION", help='Like "30m" or "1h30m".')] = "",
    at: Annotated[str, typer.Option(metavar="TIME", help='Once, like "2027-01-31T09:00".')] = "",
    timezone: Annotated[
        str, typer.Option(help="Of --cron and --at, like Europe/Zurich; else as config.toml says.")
    ] = "",
    session: Annotated[
        str, typer.Option(help="own: a conversation of its own; group: the group's.")
    ] = "own",
    missed: Annotated[
        str, typer.Option(help="Runs that fall into a downtime: once makes one of them, skip none.")
    ] = "",
    reply_url: Annotated[str, typer.Option(help="Where its answers go.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Have a group's agent do something at set times."""
    given = {"cron": cron, "interval": every, "once": at}
    schedule = {kind: words for kind, words in given.items() if words}
    if len(schedule) != 1:
        raise ConfigError(
            "a task needs one of --cron, --every and --at",
            hint='for instance --cron "0 9 * * 1-5", --every 30m or --at 2027-01-31T09:00',
        )
    new = _new(
        prompt=prompt,
        schedule=schedule,
        timezone=timezone,
        session=session,
        missed=missed or None,
        reply_url=reply_url,
    )
    context = context_of(ctx)
    made = run(lambda: _add(context, group, new))
    if as_json:
        show_json(made.model_dump())
    else:
        out.print(f"{made.task_id}: next run {made.next_run}")


@app.command("pause")
def pause(ctx: typer.Context, task: TaskArgument) -> None:
    """No more runs until it is resumed."""
    context = context_of(ctx)
    run(lambda: _change(context, task, TaskChangeIn(paused=True)))
    out.print("paused")


@app.command("resume")
def resume(ctx: typer.Context, task: TaskArgument) -> None:
    """Runs again from now on."""
    context = context_of(ctx)
    changed = run(lambda: _change(context, task, TaskChangeIn(paused=False)))
    out.print(f"next run {changed.next_run}")


@app.command("rm")
def remove(ctx: typer.Context, task: TaskArgument) -> None:
    """Remove a task."""
    context = context_of(ctx)
    run(lambda: _remove(context, task))
    out.print("removed")


# Where a host serves, it is asked; where none does, the store is changed.


class _Desk(Protocol):
    async def list(self, group: str) -> Sequence[TaskOut]: ...
    async def find(self, task: str) -> TaskOut: ...
    async def add(self, group: str, new: NewTaskIn) -> TaskOut: ...
    async def change(self, task: TaskOut, change: TaskChangeIn) -> TaskOut: ...
    async def remove(self, task: TaskOut) -> None: ...


class _Online:
    def __init__(self, api: Api) -> None:
        self._api = api

    async def list(self, group: str) -> Sequence[TaskOut]:
        path = f"{group_path(group)}/tasks" if group else "/api/tasks"
        return TaskList.model_validate(await self._api.call("GET", path)).tasks

    async def find(self, task: str) -> TaskOut:
        return TaskOut.model_validate(await self._api.call("GET", f"/api/tasks/{task}"))

    async def add(self, group: str, new: NewTaskIn) -> TaskOut:
        made = await self._api.call("POST", f"{group_path(group)}/tasks", json=new.model_dump())
        return TaskOut.model_validate(made)

    async def change(self, task: TaskOut, change: TaskChangeIn) -> TaskOut:
        changed = await self._api.call(
            "PATCH", _path(task), json=change.model_dump(exclude_unset=True)
        )
        return TaskOut.model_validate(changed)

    async def remove(self, task: TaskOut) -> None:
        await self._api.call("DELETE", _path(task))


class _Offline:
    def __init__(self, tasks: Tasks, people: People) -> None:
        self._tasks = tasks
        self._people = people

    async def list(self, group: str) -> Sequence[TaskOut]:
        return [TaskOut.of(i) for i in await self._tasks.list(group or None)]

    async def find(self, task: str) -> TaskOut:
        return TaskOut.of(await self._tasks.show(task))

    async def add(self, group: str, new: NewTaskIn) -> TaskOut:
        check_group_id(group)
        await self._people.admit(group, "", operator=True)
        return TaskOut.of(TaskInfo(await self._tasks.add(group, new.task(), make_group=True)))

    async def change(self, task: TaskOut, change: TaskChangeIn) -> TaskOut:
        await self._tasks.update(task.group, task.task_id, change.change())
        return await self.find(task.task_id)

    async def remove(self, task: TaskOut) -> None:
        await self._tasks.cancel(task.group, task.task_id)


@asynccontextmanager
async def _desk(context: Context, *, changes: bool) -> AsyncIterator[_Desk]:
    async with serving_api(context) as api:
        if api is not None:
            yield _Online(api)
            return
    settings = functools.cache(context.settings)
    with host_lock(context.layout.host_lock) if changes else contextlib.nullcontext():
        async with offline_store(context) as store:
            tasks = Tasks(store, lambda: task_limits(settings().tools.schedule_task))
            yield _Offline(tasks, People(store, settings))


async def _list(context: Context, group: str) -> Sequence[TaskOut]:
    async with _desk(context, changes=False) as desk:
        return await desk.list(group)


async def _add(context: Context, group: str, new: NewTaskIn) -> TaskOut:
    async with _desk(context, changes=True) as desk:
        return await desk.add(group, new)


async def _change(context: Context, task: str, change: TaskChangeIn) -> TaskOut:
    _check_id(task)
    async with _desk(context, changes=True) as desk:
        return await desk.change(await desk.find(task), change)


async def _remove(context: Context, task: str) -> None:
    _check_id(task)
    async with _desk(context, changes=True) as desk:
        await desk.remove(await desk.find(task))


def _path(task: TaskOut) -> str:
    return f"{group_path(task.group)}/tasks/{task.task_id}"


def _new(**given: object) -> NewTaskIn:
    """What the options say, as the API takes it. Raises: ConfigError."""
    try:
        return NewTaskIn.model_validate(given)
    except ValidationError as e:
        first = e.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "the task"
        raise ConfigError(
            f"{option}: {first['msg']}", hint="see `nanokimi tasks add --help`"
        ) from None


def _check_id(task: str) -> None:
    if not re.fullmatch(r"task_[0-9a-f]{1,64}", task):
        raise NotFoundError(
            f"there is no task {shorten(task)!r}", hint="`nanokimi tasks list` shows what there is"
        )


def _when(task: TaskOut) -> str:
    ((kind, words),) = task.schedule.items()
    return (
        "once" if kind == "once" else describe(Schedule(ScheduleKind(kind), words, task.timezone))
    )


def _next(task: TaskOut) -> str:
    return _minute(task.next_run) if task.next_run else task.state


def _last(task: TaskOut) -> str:
    last = task.last_run
    return f"{_minute(last.due)} {last.status}".strip() if last is not None else "-"


def _minute(time: str) -> str:
    """An ISO 8601 time without its seconds."""
    return f"{time[:10]} {time[11:16]}{time[19:]}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"
