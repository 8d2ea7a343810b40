"""Hosts on one store: who may work for which group, and what a silent one loses."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from database_server import PostgresServer
from sqlalchemy import Connection, update

from runner.errors import ConflictError, OwnedElsewhereError, PermanentError, TemporaryError
from runner.model import Event, Message, TurnState
from runner.store import Claim, Elsewhere, Place, Store, groups
from runner.store import schema as t
from runner.store.hosts import LEASE, SLOTS
from runner.store.lease import Lease

_ids = iter(range(1, 10**9))


@pytest.fixture
async def stores(place: Place) -> AsyncIterator[tuple[Store, Store]]:
    """Two hosts' views of one database."""
    one, two = await Store.open(place), await Store.open(place)
    yield one, two
    await one.close()
    await two.close()


async def say(store: Store, text: str, group: str = "g") -> None:
    message = Message(f"m{next(_ids)}", group, 0, text, channel="http")
    await store.accept(message, 100, Event(next(_ids), group, "message.accepted", {}))


async def silence(store: Store, host: str, seconds: float = 0.0) -> None:
    """The lease of ``host`` ran out so long ago."""

    def work(c):  # type: ignore[no-untyped-def]
        late = t.hosts.c.expires_at - LEASE - seconds
        c.execute(update(t.hosts).where(t.hosts.c.id == host).values(expires_at=late))

    await store.transact(work)


async def test_a_group_is_one_hosts_as_long_as_that_lives(stores: tuple[Store, Store]) -> None:
    one, two = stores
    await Lease(one, "a").enter()
    await Lease(two, "b").enter()
    await say(one, "first")
    claim = await one.claim("g", "a", next(_ids))
    assert isinstance(claim, Claim)
    await say(two, "second")
    refused = await two.claim("g", "b", next(_ids))
    assert isinstance(refused, Elsewhere)
    assert refused.owner == "a"
    assert refused.until > 0
    assert await two.groups_with_work("b") == []
    assert await one.groups_with_work("a") == ["g"]
    assert await Lease(two, "b").elsewhere() == {"g"}
    assert await Lease(one, "a").elsewhere() == set()


async def test_what_a_silent_host_left_is_taken_and_its_late_end_is_refused(
    stores: tuple[Store, Store],
) -> None:
    one, two = stores
    lease = Lease(one, "a")
    await lease.enter()
    await Lease(two, "b").enter()
    await say(one, "question")
    old = await one.claim("g", "a", next(_ids))
    assert isinstance(old, Claim)
    made = await one.next_generation("g", "a")
    await silence(one, "a")
    assert await two.groups_with_work("b") == ["g"]
    new = await two.claim("g", "b", next(_ids))
    assert isinstance(new, Claim)
    assert (new.turn.id, new.turn.attempt) == (old.turn.id, 2)
    ended = Event(next(_ids), "g", "turn.finished", {})
    assert not await one.finish(replace(old.turn, state=TurnState.DONE), ended)
    with pytest.raises(OwnedElsewhereError):
        await one.next_generation("g", "a")
    # It wakes up, and finds out; its sandbox is of an older generation when the group comes back.
    assert (await lease.renew()).others
    assert await lease.elsewhere() == {"g"}
    await two.next_generation("g", "b")
    await silence(two, "b")
    back = await one.claim("g", "a", next(_ids))
    assert isinstance(back, Claim)
    assert back.group.generation > made


async def test_a_restarted_host_has_its_groups_at_once(stores: tuple[Store, Store]) -> None:
    one, two = stores
    first = await Lease(one, "a").enter()
    await Lease(two, "b").enter()
    await say(one, "question")
    await one.claim("g", "a", next(_ids))
    again = await Lease(one, "a").enter()
    assert again.slot == first.slot
    claim = await one.claim("g", "a", next(_ids))
    assert isinstance(claim, Claim)
    assert claim.turn.attempt == 2


async def test_a_host_that_ends_gives_its_groups_up(stores: tuple[Store, Store]) -> None:
    one, two = stores
    lease, other = Lease(one, "a"), Lease(two, "b")
    await lease.enter()
    assert (await other.enter()).others
    await say(one, "question")
    await one.claim("g", "a", next(_ids))
    await lease.leave()
    assert isinstance(await two.claim("g", "b", next(_ids)), Claim)
    assert not (await other.renew()).others


async def test_every_living_host_has_a_slot_of_its_own(stores: tuple[Store, Store]) -> None:
    one, _ = stores
    leases = [Lease(one, f"h{n}") for n in range(SLOTS)]
    slots = [(await lease.enter()).slot for lease in leases]
    assert slots == list(range(SLOTS))
    with pytest.raises(PermanentError) as e:
        await Lease(one, "one more").enter()
    assert e.value.code == "too_many_hosts"
    await silence(one, "h3")
    assert (await Lease(one, "one more").enter()).slot == 3


async def test_a_second_process_as_the_same_host_ends_the_first(
    stores: tuple[Store, Store],
) -> None:
    one, two = stores
    first = Lease(one, "a")
    await first.enter()
    copy = Lease(two, "a")
    await copy.enter()
    with pytest.raises(ConflictError) as e:
        await first.renew()
    assert "host-id" in e.value.hint
    await first.leave()
    assert (await copy.renew()).slot == 0  # what the first gives up is not its any more


async def test_the_dead_are_forgotten_after_a_while(stores: tuple[Store, Store]) -> None:
    one, two = stores
    lease = Lease(one, "a")
    await lease.enter()
    other = Lease(two, "b")
    await other.enter()
    await silence(two, "b")
    assert (await lease.renew()).others  # it may have left work behind
    await silence(two, "b", LEASE)
    assert not (await lease.renew()).others
    assert (await other.renew()).others  # it comes back


async def test_hosts_that_write_for_the_same_groups_do_not_wait_in_a_circle(
    postgres: PostgresServer, postgres_url: str
) -> None:
    stores = [await Store.open(postgres_url), await Store.open(postgres_url)]
    before = postgres.log.count("deadlock detected")

    async def talk(n: int) -> None:
        some = random.Random(n)
        for _ in range(10):
            await say(stores[n % 2], "words", f"g{some.randrange(20)}")

    await asyncio.gather(*(talk(n) for n in range(32)))
    for store in stores:
        await store.close()
    assert postgres.log.count("deadlock detected") == before


async def test_a_host_that_stopped_in_mid_transaction_does_not_cost_others_their_lease(
    postgres_url: str,
) -> None:
    one, two = await Store.open(postgres_url), await Store.open(postgres_url)
    stopped, go = threading.Event(), threading.Event()

    def stop(c: Connection) -> None:
        groups.lock(c, "g")
        stopped.set()
        go.wait(60)

    try:
        lease = Lease(two, "b")
        await lease.enter()
        await say(one, "first")
        frozen = asyncio.create_task(one.transact(stop))
        await asyncio.to_thread(stopped.wait)
        began = time.monotonic()
        said = [asyncio.create_task(say(two, f"n{n}")) for n in range(3)]
        await asyncio.sleep(0)  # they are before it
        await lease.renew()
        assert time.monotonic() - began < LEASE / 2
        await asyncio.gather(*said)
        go.set()
        with pytest.raises(TemporaryError):
            await frozen
    finally:
        go.set()
        await one.close()
        await two.close()
