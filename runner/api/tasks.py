"""``/api/groups/{id}/tasks``: what a group's agent does at set times."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from runner.api.bodies import ErrorOut
from runner.api.routes import GroupIn, HostIn
from runner.api.task_bodies import NewTaskIn, TaskChangeIn, TaskList, TaskOut
from runner.store.tasks import TaskInfo

router = APIRouter(
    prefix="/api",
    responses={code: {"model": ErrorOut} for code in (401, 403, 404, 409, 422, 503)},
    tags=["tasks"],
)


async def task_of(
    task: Annotated[str, Path(max_length=100, description="The task's id.")],
) -> str:
    """The task id of the path. A ``%2F`` in it came through routing as NUL (see ``app``)."""
    return task.replace("\0", "/")


TaskIn = Annotated[str, Depends(task_of)]


@router.get("/tasks")
async def list_all_tasks(host: HostIn) -> TaskList:
    """The tasks of every group, oldest first; at most 1,000."""
    return TaskList(tasks=[TaskOut.of(i) for i in await host.tasks.list()])


@router.get("/tasks/{task}")
async def find_task(host: HostIn, task: TaskIn) -> TaskOut:
    """A task by its id, whatever group it is of."""
    return TaskOut.of(await host.tasks.show(task))


@router.get("/groups/{id}/tasks")
async def list_tasks(host: HostIn, group: GroupIn) -> TaskList:
    """The group's tasks, oldest first; of those that are done the newest 20 are kept."""
    return TaskList(tasks=[TaskOut.of(i) for i in await host.tasks.list(group)])


@router.post("/groups/{id}/tasks", status_code=201)
async def add_task(host: HostIn, group: GroupIn, body: NewTaskIn) -> TaskOut:
    """Have the agent do something at set times. A group that is not there is made."""
    return TaskOut.of(
        TaskInfo(await host.intake.add_task(group, body.task(), created_by=body.created_by))
    )


@router.get("/groups/{id}/tasks/{task}")
async def get_task(host: HostIn, group: GroupIn, task: TaskIn) -> TaskOut:
    """One task."""
    return TaskOut.of(await host.tasks.show(task, group))


@router.patch("/groups/{id}/tasks/{task}")
async def change_task(host: HostIn, group: GroupIn, task: TaskIn, body: TaskChangeIn) -> TaskOut:
    """Change, pause or resume a task. One that is done comes back with a new time.

    409 when it cannot be: it is done, or its time has passed.
    """
    await host.tasks.update(group, task, body.change())
    return TaskOut.of(await host.tasks.show(task, group))


@router.delete("/groups/{id}/tasks/{task}", status_code=204)
async def cancel_task(host: HostIn, group: GroupIn, task: TaskIn) -> None:
    """Remove a task. A run that has begun goes on."""
    await host.tasks.cancel(group, task)
