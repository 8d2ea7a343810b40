"""The pool's fairness, with sandboxes that only count: everything else of the pool is real."""

import asyncio
import time
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

    async def close(self) -> None:
        self.alive = False


class Maker:
    """Counts what lives; ``stubborn`` closes fail that many times first."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.living: set[str] = set()
        self.most = 0
        self.stubborn = 0
        self.never = ""
        self.stale: set[str] = set()

    async def open(self, group: str) -> AgentSession:
        await asyncio.sleep(0)
        assert group not in self.living, "two sandboxes of one group"
        self.made[group] += 1
        self.living.add(group)
        self.most = max(self.most, len(self.living))
        return cast("AgentSession", CountedSession(group))

    def outdated(self, session: AgentSession, generation: int) -> bool:
        return cast("CountedSession", session).group in self.stale

    async def close(self, session: AgentSession) -> None:
        await asyncio.sleep(0)
        if self.stubborn:
            self.stubborn -= 1
            raise EngineError("the engine is silent")
        if self.never == cast("CountedSession", session).group:
            raise OSError("no more descriptors")
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
    assert pool.groups() == {"a"}
    async with asyncio.timeout(10):
        while maker.living:
            await asyncio.sleep(0.01)
    reaper.cancel()
    await asyncio.wait({reaper})
    assert pool.groups() == set()


async def test_close_ends_every_sandbox(maker: Maker) -> None:
    pool = make_pool(maker, 3)
    for group in "abc":
        await turn(pool, group)
    await pool.close()
    assert maker.living == set()


async def nothing() -> None:
    pass


async def test_a_discarded_session_is_ended_and_the_next_turn_gets_a_new_one(
    maker: Maker,
) -> None:
    pool = make_pool(maker, 1)
    async with pool.slot("a") as slot:
        await slot.session()
        await slot.discard()
    async with asyncio.timeout(10):
        await turn(pool, "a")
    assert maker.made["a"] == 2
    assert maker.most == 1


async def test_end_waits_for_the_groups_own_turn_and_for_nobody_else(maker: Maker) -> None:
    pool = make_pool(maker, 1)
    order: list[str] = []

    async def then() -> None:
        order.append("ended")

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks, pool.slot("a") as slot:
        await slot.session()
        tasks.create_task(turn(pool, "b", order))
        await asyncio.sleep(0)
        ending = tasks.create_task(pool.end("a", then))
        tasks.create_task(turn(pool, "a", order))
        assert await pool.end("c", nothing) is False
        assert not ending.done()
    assert ending.result() is True
    assert order.index("ended") < order.index("a")


async def test_a_stop_that_fails_is_told_and_goes_on(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "STOP_RETRY", 0.01)
    pool = make_pool(maker, 1)
    await turn(pool, "a")
    maker.stubborn = 2
    done: list[str] = []

    async def then() -> None:
        done.append("then")

    with pytest.raises(EngineError):
        await pool.end("a", then)
    assert done == []
    async with asyncio.timeout(10):
        assert await pool.end("a", then) is True
    assert done == ["then"]
    assert maker.living == set()


async def test_one_sandbox_that_cannot_be_stopped_holds_up_only_its_own_place(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "STOP_RETRY", 0.01)
    pool = make_pool(maker, 2)
    await turn(pool, "a")
    await turn(pool, "b")
    maker.never = "a"
    async with asyncio.timeout(10):
        await turn(pool, "c")
    assert maker.living == {"a", "c"}
    await pool.close()


async def test_a_raised_limit_serves_those_who_wait(maker: Maker) -> None:
    most = 1
    pool = Pool(maker, lambda: most, lambda: 0.2)
    reaper = asyncio.create_task(pool.reap())
    async with asyncio.timeout(10), pool.slot("a") as slot:
        await slot.session()
        waiting = asyncio.create_task(turn(pool, "b"))
        await asyncio.sleep(0)
        most = 2
        await waiting
    reaper.cancel()
    await asyncio.wait({reaper})


async def test_a_group_that_waits_for_a_slot_is_ended_without_waiting_for_others(
    maker: Maker,
) -> None:
    pool = make_pool(maker, 1)
    done: list[str] = []

    async def then() -> None:
        done.append("then")

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks, pool.slot("busy") as slot:
        await slot.session()
        waiting = tasks.create_task(turn(pool, "a"))
        await asyncio.sleep(0)
        async with asyncio.timeout(1):
            assert not await pool.end("a", then)
        assert done == ["then"]
        assert not waiting.done()


async def test_what_is_done_at_a_groups_end_comes_before_the_turn_that_got_its_slot_meanwhile(
    maker: Maker,
) -> None:
    pool = make_pool(maker, 1)
    order: list[str] = []
    await turn(pool, "a")

    async def then() -> None:
        assert not maker.living, "its files are removed now"
        waiting.append(asyncio.create_task(turn(pool, "a", order)))
        for _ in range(5):
            await asyncio.sleep(0)
        order.append("then")

    waiting: list[asyncio.Task[None]] = []
    async with asyncio.timeout(10):
        assert await pool.end("a", then)
        await waiting[0]
    assert order == ["then", "a"]
    assert maker.made == {"a": 2}


async def test_thousands_of_groups_may_wait_at_once(maker: Maker) -> None:
    # After a restart every group that has work comes at the same moment.
    pool = make_pool(maker, 2)
    count = 10_000

    async def timed(groups: int) -> float:
        began = time.perf_counter()
        async with asyncio.timeout(300):
            await asyncio.gather(*(turn(pool, f"g{n}") for n in range(groups)))
        return time.perf_counter() - began

    few = await timed(count // 10)
    assert await timed(count) < 40 * few, "what a group costs grows with those that wait"
