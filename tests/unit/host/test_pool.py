"""The pool's fairness, with sandboxes that only count: everything else of the pool is real."""

import asyncio
from collections import Counter
from typing import cast

import pytest

from runner.errors import EngineError
from runner.host import pool as pool_module
from runner.host.pool import Pool
from runner.host.session import AgentSession


class CountedSession:
    def __init__(self, group: str) -> None:
        self.group = group
        self.alive = True


class Maker:
    """Counts what lives; ``stubborn`` closes fail that many times first."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.living: set[str] = set()
        self.most = 0
        self.stubborn = 0
        self.stale: set[str] = set()

    async def open(self, group: str) -> AgentSession:
        await asyncio.sleep(0)
        assert group not in self.living, "two sandboxes of one group"
        self.made[group] += 1
        self.living.add(group)
        self.most = max(self.most, len(self.living))
        return cast("AgentSession", CountedSession(group))

    def outdated(self, session: AgentSession) -> bool:
        return cast("CountedSession", session).group in self.stale

    async def close(self, session: AgentSession) -> None:
        await asyncio.sleep(0)
        if self.stubborn:
            self.stubborn -= 1
            raise EngineError("the engine is silent")
        self.living.discard(cast("CountedSession", session).group)


@pytest.fixture
def maker() -> Maker:
    return Maker()


def make_pool(maker: Maker, most: int, idle: float = 1000.0) -> Pool:
    return Pool(maker, lambda: most, lambda: idle)


async def turn(pool: Pool, group: str, order: list[str] | None = None) -> None:
    async with pool.slot(group) as slot:
        await slot.session()
        if order is not None:
            order.append(group)


async def test_a_group_keeps_its_sandbox_between_turns(maker: Maker) -> None:
    pool = make_pool(maker, 2)
    for _ in range(3):
        await turn(pool, "a")
    assert maker.made == {"a": 1}


async def test_there_are_never_more_sandboxes_than_allowed(maker: Maker) -> None:
    pool = make_pool(maker, 3)
    async with asyncio.timeout(10):
        await asyncio.gather(*(turn(pool, f"g{n % 10}") for n in range(10)))
        await asyncio.gather(*(turn(pool, f"g{n}") for n in range(20)))
    assert maker.most <= 3
    assert sum(maker.made.values()) >= 20


async def test_those_who_wait_are_served_in_order_and_a_busy_group_queues_up_again(
    maker: Maker,
) -> None:
    pool = make_pool(maker, 1)
    order: list[str] = []

    async def greedy() -> None:
        for _ in range(3):
            await turn(pool, "greedy", order)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks, pool.slot("first") as slot:
        await slot.session()
        for group in ("a", "b"):
            tasks.create_task(turn(pool, group, order))
            await asyncio.sleep(0)
        tasks.create_task(greedy())
        await asyncio.sleep(0)
        tasks.create_task(turn(pool, "c", order))
        await asyncio.sleep(0)
    assert order == ["a", "b", "greedy", "c", "greedy", "greedy"]


async def test_a_group_whose_own_turn_runs_holds_up_nobody_behind_it(maker: Maker) -> None:
    pool = make_pool(maker, 2)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks, pool.slot("a") as slot:
        await slot.session()
        waiting = tasks.create_task(turn(pool, "a"))
        await asyncio.sleep(0)
        await turn(pool, "b")
        assert not waiting.done()


async def test_a_slot_is_free_only_when_the_removal_is_confirmed(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "STOP_RETRY", 0.01)
    pool = make_pool(maker, 1)
    await turn(pool, "a")
    maker.stubborn = 3
    async with asyncio.timeout(10):
        await turn(pool, "b")
    assert maker.most == 1
    assert maker.living == {"b"}


async def test_somebody_who_gives_up_waiting_leaves_no_hole(maker: Maker) -> None:
    pool = make_pool(maker, 1)
    async with pool.slot("a") as slot:
        await slot.session()
        gone = asyncio.create_task(turn(pool, "b"))
        stays = asyncio.create_task(turn(pool, "c"))
        await asyncio.sleep(0)
        gone.cancel()
    async with asyncio.timeout(10):
        await stays
    assert maker.made == {"a": 1, "c": 1}


async def test_a_sandbox_that_died_or_is_outdated_is_replaced(maker: Maker) -> None:
    pool = make_pool(maker, 2)
    await turn(pool, "a")
    cast("CountedSession", pool.warm()["a"]).alive = False
    await turn(pool, "a")
    assert maker.made["a"] == 2
    maker.stale.add("a")
    async with pool.slot("a") as slot:
        await slot.session()
    assert maker.made["a"] == 3
    assert maker.most == 1


async def test_idle_sandboxes_go_after_their_time(maker: Maker) -> None:
    pool = make_pool(maker, 2, idle=0.05)
    reaper = asyncio.create_task(pool.reap())
    await turn(pool, "a")
    assert pool.has("a")
    async with asyncio.timeout(10):
        while maker.living:
            await asyncio.sleep(0.01)
    reaper.cancel()
    await asyncio.wait({reaper})
    assert not pool.has("a")


async def test_close_ends_every_sandbox(maker: Maker) -> None:
    pool = make_pool(maker, 3)
    for group in "abc":
        await turn(pool, group)
    await pool.close()
    assert maker.living == set()
