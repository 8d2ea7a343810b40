"""Tasks in the store: what may be asked of the desk, and its limits."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from runner.errors import ConflictError, NotFoundError, PermanentError
from runner.model import TaskState
from runner.schedule import ScheduleKind
from runner.store import Place, Store, tasks
from runner.store.task_desk import NewTask, TaskChange, TaskLimits, Tasks
from runner.store.tasks import KEPT_DONE

HOUR = 3600.0
LIMITS = TaskLimits(max_tasks=3, min_interval=60.0, timezone="Europe/Zurich", missed="once")
HOURLY = NewTask("look around", ScheduleKind.INTERVAL, "1h")


@dataclass
class Desk:
    """A desk whose clock the test moves."""

    store: Store
    now: float = 1_800_000_000.0
    changes: int = 0
    limits: TaskLimits = LIMITS
    tasks: Tasks = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = Tasks(
            self.store, lambda: self.limits, changed=self._changed, clock=lambda: self.now
        )

    def _changed(self) -> None:
        self.changes += 1


@pytest.fixture
async def desk(place: Place) -> AsyncIterator[Desk]:
    store = await Store.open(place)
    await store.put_group("g")
    await store.put_group("other")
    yield Desk(store)
    await store.close()


async def test_a_task_has_its_next_run_from_the_start(desk: Desk) -> None:
    task = await desk.tasks.add("g", HOURLY, created_by="ada")
    (listed,) = await desk.tasks.list("g")
    assert listed.task == task
    assert (task.next_at, task.timezone, task.missed) == (desk.now + HOUR, "Europe/Zurich", "once")
    assert (task.created_by, task.state, listed.last_status) == ("ada", TaskState.ACTIVE, "")
    assert desk.changes == 1


async def test_a_group_has_no_more_tasks_than_it_may(desk: Desk) -> None:
    for _ in range(3):
        await desk.tasks.add("g", HOURLY)
    with pytest.raises(ConflictError) as e:
        await desk.tasks.add("g", HOURLY)
    assert (e.value.code, len(await desk.tasks.list("g"))) == ("too_many_tasks", 3)
    await desk.tasks.add("other", HOURLY)
    assert len(await desk.tasks.list()) == 4


async def test_a_task_is_its_groups_alone(desk: Desk) -> None:
    task = await desk.tasks.add("g", HOURLY)
    for work in (
        desk.tasks.cancel("other", task.id),
        desk.tasks.pause("other", task.id),
        desk.tasks.resume("other", task.id),
        desk.tasks.show(task.id, "other"),
        desk.tasks.update("other", task.id, TaskChange(prompt="mine now")),
        desk.tasks.list("nobody"),
        desk.tasks.add("nobody", HOURLY),
    ):
        with pytest.raises(NotFoundError):
            await work
    assert (await desk.tasks.show(task.id, "g")).task == task


async def test_a_pause_leaves_out_what_falls_into_it(desk: Desk) -> None:
    task = await desk.tasks.add("g", HOURLY)
    assert (await desk.tasks.pause("g", task.id)).next_at is None
    assert await desk.tasks.pause("g", task.id) == (await desk.tasks.show(task.id, "g")).task
    desk.now += 10 * HOUR
    resumed = await desk.tasks.resume("g", task.id)
    assert (resumed.state, resumed.next_at) == (TaskState.ACTIVE, desk.now + HOUR)


async def test_a_time_that_passed_in_a_pause_needs_a_new_one(desk: Desk) -> None:
    soon = NewTask("wake", ScheduleKind.ONCE, "2027-01-15T10:00Z")
    task = await desk.tasks.add("g", soon)
    await desk.tasks.pause("g", task.id)
    desk.now += 24 * HOUR
    with pytest.raises(ConflictError, match="has passed"):
        await desk.tasks.resume("g", task.id)
    again = TaskChange(kind=ScheduleKind.ONCE, when="2027-02-01T10:00")
    assert (await desk.tasks.update("g", task.id, again)).next_at is None
    assert (await desk.tasks.resume("g", task.id)).next_at is not None


async def test_an_update_changes_what_it_names(desk: Desk) -> None:
    task = await desk.tasks.add("g", HOURLY, created_by="owner")
    quiet = await desk.tasks.update("g", task.id, TaskChange(session="group"), by="stranger")
    assert quiet == replace(task, session="group")
    daily = TaskChange(kind=ScheduleKind.CRON, when="0 9 * * *")
    assert (await desk.tasks.update("g", task.id, daily)).spec == "0 9 * * *"
    before = (await desk.tasks.show(task.id, "g")).task.next_at
    moved = await desk.tasks.update("g", task.id, TaskChange(timezone="Asia/Tokyo"))
    assert before is not None
    assert moved.next_at == before - 8 * HOUR


async def test_who_gives_a_task_new_words_is_who_it_runs_for(desk: Desk) -> None:
    task = await desk.tasks.add("g", HOURLY, created_by="owner")
    reworded = await desk.tasks.update("g", task.id, TaskChange(prompt="do mine"), by="stranger")
    assert (reworded.prompt, reworded.created_by) == ("do mine", "stranger")
    by_operator = await desk.tasks.update("g", task.id, TaskChange(prompt="and mine"))
    assert by_operator.created_by == "stranger"


@pytest.mark.parametrize("prompt", ["", "  \n", "x" * 32_001, "a\0b", "a\ud800b"])
async def test_a_prompt_that_cannot_be_kept_is_refused(desk: Desk, prompt: str) -> None:
    with pytest.raises(PermanentError) as e:
        await desk.tasks.add("g", replace(HOURLY, prompt=prompt))
    assert e.value.code == "bad_prompt"
    task = await desk.tasks.add("g", HOURLY)
    with pytest.raises(PermanentError):
        await desk.tasks.update("g", task.id, TaskChange(prompt=prompt))


async def test_work_for_another_transaction_stands_or_falls_with_it(desk: Desk) -> None:
    adding = desk.tasks.adding("g", HOURLY)

    def fails(c: object) -> None:
        adding(c)  # type: ignore[arg-type]
        raise RuntimeError("the rest failed")

    with pytest.raises(RuntimeError):
        await desk.store.transact(fails)
    assert await desk.tasks.list("g") == []
    task = await desk.store.transact(adding)
    assert [i.task for i in await desk.tasks.list("g")] == [task]


async def test_a_removed_group_takes_its_tasks_along(desk: Desk) -> None:
    await desk.tasks.add("g", HOURLY)
    kept = await desk.tasks.add("other", HOURLY)
    await desk.store.delete_group("g")
    assert [i.task.id for i in await desk.tasks.list()] == [kept.id]


async def test_a_clock_that_is_set_back_brings_no_time_a_second_time(desk: Desk) -> None:
    task = await desk.tasks.add("g", replace(HOURLY, kind=ScheduleKind.CRON, when="0 * * * *"))
    assert task.next_at is not None
    ran = replace(task, last_at=task.next_at)
    await desk.store.transact(lambda c: tasks.put(c, ran))
    desk.now = task.next_at - 600
    await desk.tasks.pause("g", task.id)
    assert (await desk.tasks.resume("g", task.id)).next_at == task.next_at + HOUR
    moved = await desk.tasks.update("g", task.id, TaskChange(timezone="UTC"))
    assert moved.next_at == task.next_at + HOUR


async def test_tasks_that_are_done_do_not_pile_up(desk: Desk) -> None:
    desk.limits = replace(LIMITS, max_tasks=1)
    for n in range(KEPT_DONE + 5):
        task = await desk.tasks.add("g", HOURLY)
        done = replace(task, state=TaskState.DONE, next_at=None, last_at=float(n))
        await desk.store.transact(lambda c, done=done: tasks.put(c, done))
    newest = await desk.tasks.add("g", HOURLY)
    listed = [i.task for i in await desk.tasks.list("g")]
    assert len(listed) == KEPT_DONE + 1
    assert newest in listed
    assert min(t.last_at for t in listed if t.last_at is not None) == 5.0


async def test_due_tasks_come_page_by_page(desk: Desk) -> None:
    desk.limits = replace(LIMITS, max_tasks=100)
    made = [await desk.tasks.add("g", HOURLY) for _ in range(5)]
    paused = await desk.tasks.add("g", HOURLY)
    held = replace(paused, state=TaskState.PAUSED)
    await desk.store.transact(lambda c: tasks.put(c, held))
    now, seen, after = desk.now + HOUR, [], (0.0, "")
    assert await desk.store.read(lambda c: tasks.due(c, now - 1)) == []
    while page := await desk.store.read(lambda c, after=after: tasks.due(c, now, after, 2)):
        seen += [t.id for t in page]
        after = (page[-1].next_at or 0.0, page[-1].id)
    assert seen == sorted(t.id for t in made)
    assert await desk.store.read(lambda c: tasks.next_due(c, now)) is None
    assert await desk.store.read(lambda c: tasks.next_due(c, time.time() - 1e9)) == now
