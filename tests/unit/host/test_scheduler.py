"""The scheduler on a real store, with a clock that the test moves."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runner.errors import TemporaryError
from runner.host.events import EventLog
from runner.host.scheduler import (
    ASLEEP,
    GRACE,
    LONGEST_SLEEP,
    PAGE,
    RETRY,
    Circumstances,
    Scheduler,
)
from runner.model import Role, Task
from runner.schedule import ScheduleKind
from runner.store import Store
from runner.store.task_desk import NewTask, TaskLimits, Tasks

NOW = 1_800_000_000.0
HOUR = 3600.0


class World:
    """A scheduler, and what a host would be to it."""

    def __init__(self, store: Store, log_: EventLog) -> None:
        self.now = NOW
        self.max_queue = 100
        self.woken: asyncio.Queue[str] = asyncio.Queue()
        self.broken: set[str] = set()
        self.store = store
        self.scheduler = Scheduler(
            store, log_, self._of_task, self.woken.put_nowait, clock=lambda: self.now
        )
        limits = TaskLimits(1000, 1.0, "UTC", "once")
        self.tasks = Tasks(
            store, lambda: limits, changed=self.scheduler.look, clock=lambda: self.now
        )

    async def _of_task(self, task: Task) -> Circumstances:
        if task.id in self.broken:
            raise LookupError("a bug")
        return Circumstances(Role.MEMBER, self.max_queue, held=False)

    async def add(self, every: str = "1h", missed: str = "once") -> Task:
        new = NewTask("look", ScheduleKind.INTERVAL, every, missed=missed)  # type: ignore[arg-type]
        return await self.tasks.add("g", new)

    async def runs(self) -> int:
        return len(await self.store.messages("g", limit=1000))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = await Store.open(tmp_path / "nanokimi.db")
    await store.put_group("g")
    yield World(store, await EventLog.open(store))
    await store.close()


async def test_it_sleeps_until_the_next_time_but_never_long(world: World) -> None:
    assert await world.scheduler.round() == LONGEST_SLEEP
    await world.add("1h")
    assert await world.scheduler.round() == LONGEST_SLEEP
    await world.add("10s")
    assert await world.scheduler.round() == 10
    world.now += 10
    await world.scheduler.round()
    assert await world.runs() == 1
    assert world.woken.get_nowait() == "g"


async def test_all_that_is_due_is_fired_in_one_round(world: World) -> None:
    for _ in range(PAGE + 5):
        await world.add()
    world.max_queue = 1000
    world.now += HOUR
    await world.scheduler.round()
    assert await world.runs() == PAGE + 5


async def test_a_change_wakes_it(world: World) -> None:
    running = asyncio.create_task(world.scheduler.run())
    try:
        world.now += 5
        task = await world.add("10s")
        world.now += 10
        world.scheduler.look()
        async with asyncio.timeout(10):
            assert await world.woken.get() == "g"
        assert (await world.tasks.show(task.id, "g")).task.runs == 1
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_what_came_due_while_nobody_looked_was_missed(world: World) -> None:
    await world.scheduler.round()
    await world.add(missed="skip")
    world.now += HOUR + ASLEEP + 1  # the machine slept
    await world.scheduler.round()
    assert await world.runs() == 0
    while world.now < NOW + 2 * HOUR:  # awake
        world.now += LONGEST_SLEEP
        await world.scheduler.round()
    assert await world.runs() == 1


async def test_a_host_that_was_away_for_a_moment_missed_nothing(world: World) -> None:
    await world.add(missed="skip")
    world.now += HOUR + GRACE - 1
    await world.scheduler.round()  # its first
    assert await world.runs() == 1


async def test_a_run_that_a_full_queue_postponed_was_not_missed(world: World) -> None:
    await world.scheduler.round()
    await world.add(missed="skip")
    world.max_queue = 0
    world.now += HOUR - LONGEST_SLEEP
    for _ in range(20):
        world.now += LONGEST_SLEEP
        assert await world.scheduler.round() <= LONGEST_SLEEP
    assert await world.scheduler.round() == RETRY
    assert await world.runs() == 0
    world.max_queue = 1
    await world.scheduler.round()
    assert await world.runs() == 1


async def test_postponed_runs_do_not_keep_others_from_theirs(world: World) -> None:
    stuck = [await world.add() for _ in range(PAGE + 1)]
    world.broken = {t.id for t in stuck}
    fine = await world.add("61m")
    world.now += 2 * HOUR
    assert await world.scheduler.round() == RETRY
    assert (await world.tasks.show(fine.id, "g")).task.runs == 1
    world.broken = set()
    await world.scheduler.round()
    assert (await world.tasks.show(stuck[-1].id, "g")).task.runs == 1


async def test_a_clock_that_jumps_fires_each_time_once(world: World) -> None:
    task = await world.add()
    world.now += 5 * HOUR  # forward
    await world.scheduler.round()
    world.now -= 5 * HOUR  # and back
    await world.scheduler.round()
    world.now += 5 * HOUR
    await world.scheduler.round()
    assert await world.runs() == 1
    assert (await world.tasks.show(task.id, "g")).task.next_at == NOW + 6 * HOUR


async def test_a_store_that_fails_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add()
    world.now += HOUR
    failed = asyncio.Event()
    read = world.store.read

    async def fails(_work: object) -> None:
        monkeypatch.setattr(world.store, "read", read)
        failed.set()
        raise TemporaryError("the database is locked", code="store_locked")

    monkeypatch.setattr(world.store, "read", fails)
    running = asyncio.create_task(world.scheduler.run())
    try:
        async with asyncio.timeout(10):
            await failed.wait()
            world.scheduler.look()
            assert await world.woken.get() == "g"
    finally:
        running.cancel()
        await asyncio.wait([running])
