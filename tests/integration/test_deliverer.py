"""The deliverer over a real store, at its bounds: many rows, several hosts, a store that fails."""

import asyncio
import itertools
import time
import tracemalloc
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from runner.channels.channel import Delivered, Failed, Result
from runner.errors import TemporaryError
from runner.host.events import EventLog
from runner.host.outbox import AT_ONCE, Deliverer, SendLimits
from runner.model import Delivery, DeliveryState, Event, Message, TurnState
from runner.store import Claim, Place, Store
from runner.store.deliveries import Deliveries

_ids = itertools.count(1)


class Recorder:
    """A channel whose receivers are in this process."""

    def __init__(self, answer: Callable[[Delivery], Result] = lambda _: Delivered()) -> None:
        self.sent: dict[str, list[int]] = defaultdict(list)
        self.most_at_once = 0
        self._answer = answer
        self._at_once = 0
        self._changed = asyncio.Condition()

    async def send(self, delivery: Delivery, max_chars: int, timeout: float) -> Result:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0)
        self._at_once -= 1
        async with self._changed:
            self.sent[delivery.group].append(delivery.body["n"])
            self._changed.notify_all()
        return self._answer(delivery)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: sum(map(len, self.sent.values())) >= count)

    async def aclose(self) -> None:
        pass


async def fill(store: Store, group: str, count: int, size: int = 10) -> None:
    """So many answers of a group, each with its number, for a receiver of its own."""
    for n in range(count):
        url = f"https://{group}.example.com"
        now = time.time()
        message = Message(
            f"msg_{next(_ids)}", group, 0, "hi", channel="x", created_at=now, reply_url=url
        )
        await store.accept(message, 100, Event(next(_ids), group, "message.accepted", {}))
        claim = await store.claim(group, "", next(_ids))
        assert isinstance(claim, Claim)
        ended = replace(claim.turn, state=TurnState.DONE, finished_at=now)
        data = {"n": n, "text": "x" * size}
        await store.finish(ended, Event(next(_ids), group, "turn.finished", data, ended.id))


@asynccontextmanager
async def delivering(store: Store, channel: Recorder, host: str = "") -> AsyncIterator[Deliverer]:
    made = Deliverer(
        store, host, EventLog(store, 10**15, 0), {"webhook": channel}, lambda _: LIMITS
    )
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait({task})


LIMITS = SendLimits(timeout=5, max_age=1000, max_chars=0)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = await Store.open(place)
    yield store
    await store.close()


async def open_ones(store: Store) -> int:
    counts = await Deliveries(store).counts()
    return counts[DeliveryState.PENDING] + counts[DeliveryState.SENDING]


async def test_two_hosts_on_one_store_send_each_answer_once_and_in_order(place: Place) -> None:
    stores = [await Store.open(place) for _ in range(2)]
    groups = [f"g{n}" for n in range(8)]
    for group in groups:
        await fill(stores[0], group, 5)
    channel = Recorder()
    async with delivering(stores[0], channel), delivering(stores[1], channel):
        await channel.until(40)
        while await open_ones(stores[0]):
            await asyncio.sleep(0.01)
    assert channel.sent == {group: [0, 1, 2, 3, 4] for group in groups}
    for store in stores:
        await store.close()


async def test_what_waits_does_not_fill_the_memory(store: Store) -> None:
    count, size = 150, 100_000
    await fill(store, "birds", count, size)
    channel = Recorder()
    tracemalloc.start()
    try:
        async with delivering(store, channel):
            await channel.until(count)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert channel.sent["birds"] == list(range(count))
    assert peak < count * size / 4


async def test_many_groups_are_sent_to_a_bounded_number_at_a_time(store: Store) -> None:
    for n in range(AT_ONCE + 20):
        await fill(store, f"g{n}", 1)
    channel = Recorder()
    async with delivering(store, channel):
        await channel.until(AT_ONCE + 20)
    assert 1 < channel.most_at_once <= AT_ONCE


async def test_a_stop_in_the_middle_leaves_the_rest_for_the_next_host_at_once(
    store: Store,
) -> None:
    await fill(store, "birds", 2)
    begun = asyncio.Event()

    class Hanging(Recorder):
        async def send(self, delivery: Delivery, max_chars: int, timeout: float) -> Result:
            begun.set()
            await asyncio.Event().wait()
            return Delivered()

    async with delivering(store, Hanging()):
        async with asyncio.timeout(10):
            await begun.wait()
    (head,) = await Deliveries(store).heads("")
    assert head.next_at <= time.time()
    channel = Recorder()
    async with delivering(store, channel):
        await channel.until(2)
    assert channel.sent["birds"] == [0, 1]


async def test_a_store_that_fails_for_a_while_loses_and_doubles_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, "birds", 3)
    monkeypatch.setattr("runner.host.outbox.STORE_RETRY", 0.05)
    failures = itertools.count()
    settle, claim = Deliveries.delivered, Deliveries.claim

    async def failing(self: Deliveries, delivery: Delivery) -> bool:
        if next(failures) < 3:
            raise TemporaryError("the disk is full", code="disk_full")
        return await settle(self, delivery)

    async def failing_claim(self: Deliveries, group: str, lasts: float) -> Delivery | None:
        if next(failures) == 4:
            raise TemporaryError("the disk is full", code="disk_full")
        return await claim(self, group, lasts)

    monkeypatch.setattr(Deliveries, "delivered", failing)
    monkeypatch.setattr(Deliveries, "claim", failing_claim)
    channel = Recorder()
    async with delivering(store, channel):
        await channel.until(3)
    assert channel.sent["birds"] == [0, 1, 2]


async def test_a_channel_that_breaks_is_a_failure_like_any_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.host.redelivery.FIRST_DELAY", 0.01)
    await fill(store, "birds", 1)
    tries = itertools.count()

    def broken(_: Delivery) -> Result:
        match next(tries):
            case 0:
                raise ZeroDivisionError
            case 1:
                raise TemporaryError("the secret cannot be read")
            case 2:
                return Failed("x")
            case _:
                return Delivered()

    channel = Recorder(broken)
    async with delivering(store, channel):
        await channel.until(4)
    assert channel.sent["birds"] == [0, 0, 0, 0]
