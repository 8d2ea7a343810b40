"""What a turn tells its chat, and in which order it may leave."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection

from runner.errors import ConflictError, NotFoundError
from runner.model import (
    Delivery,
    DeliveryKind,
    DeliveryState,
    Event,
    Message,
    Turn,
    TurnState,
)
from runner.store import Claim, Place, Store, hosts, outbox
from runner.store.deliveries import Deliveries

_ids = itertools.count(1)
HOST = "host"
URL = "https://bot.example.com/hook"


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = await Store.open(place)
    yield store
    await store.close()


@pytest.fixture
def deliveries(store: Store) -> Deliveries:
    return Deliveries(store)


async def begin(store: Store, group: str = "g", **more: Any) -> Turn:
    """A running turn over one message."""
    n = next(_ids)
    more = {"channel": "http", "created_at": time.time()} | more
    message = Message(f"msg_{n}", group, 0, "hi", **more)
    await store.accept(message, 100, Event(next(_ids), group, "message.accepted", {}))
    claim = await store.claim(group, HOST, next(_ids))
    assert isinstance(claim, Claim)
    return claim.turn


async def end(store: Store, turn: Turn, state: TurnState = TurnState.DONE, hook: str = "") -> bool:
    ended = replace(turn, state=state, finished_at=time.time())
    kind = "turn.failed" if state is TurnState.FAILED else "turn.finished"
    data = {"turn_id": turn.id, "status": str(state)}
    told = Event(next(_ids), turn.group, kind, data, turn.id)
    return await store.finish(ended, told, hook) is not None


async def say(
    store: Store, turn: Turn, text: str, hook: str = "", group: str = ""
) -> Delivery | None:
    data, kind = {"text": text}, DeliveryKind.MESSAGE
    return await store.transact(
        lambda c: outbox.say(c, turn, kind, "message.sent", data, hook, group=group)
    )


async def answer(store: Store, group: str = "g", url: str = URL) -> None:
    assert await end(store, await begin(store, group, reply_url=url))


async def taken(deliveries: Deliveries, group: str = "g", lasts: float = 60) -> Delivery:
    got = await deliveries.claim(group, lasts)
    assert got is not None
    return got


async def test_the_end_of_a_turn_is_told_to_the_message_that_asked(
    store: Store, deliveries: Deliveries
) -> None:
    turn = await begin(store, reply_url=URL, external_id="x1", metadata={"chat": 7})
    assert await end(store, turn)
    row = await taken(deliveries)
    assert (row.kind, row.target, row.ordinal) == (DeliveryKind.ANSWER, URL, 0)
    (message,) = await store.messages("g")
    assert row.body == {
        "event": "turn.finished",
        "delivery_id": row.id,
        "group": "g",
        "turn_id": turn.id,
        "status": "done",
        "message_ids": [message.id],
        "external_ids": ["x1"],
        "metadata": {"chat": 7},
    }


async def test_what_names_a_scheduled_run_is_no_id_of_the_chats(
    store: Store, deliveries: Deliveries
) -> None:
    run = {"task": {"id": "task_1"}}
    turn = await begin(
        store, reply_url=URL, channel="task", external_id="task_1:1.000", metadata=run
    )
    assert await end(store, turn, TurnState.FAILED)
    row = await taken(deliveries)
    assert (row.body["external_ids"], row.body["metadata"]) == ([None], run)


async def test_a_failure_is_told_like_an_answer(store: Store, deliveries: Deliveries) -> None:
    assert await end(store, await begin(store, reply_url=URL), TurnState.FAILED)
    row = await taken(deliveries)
    assert (row.kind, row.body["event"]) == (DeliveryKind.FAILURE, "turn.failed")


async def test_a_second_end_of_a_turn_makes_no_second_answer(
    store: Store, deliveries: Deliveries
) -> None:
    first = await begin(store, reply_url=URL)
    again = await store.claim("g", HOST, next(_ids))
    assert isinstance(again, Claim)
    assert not await end(store, first)
    assert await end(store, again.turn)
    assert not await end(store, again.turn)
    assert len(await deliveries.page("g", None)) == 1


async def test_what_cannot_be_told_is_not_done(store: Store, deliveries: Deliveries) -> None:
    turn = await begin(store, reply_url=URL)

    def work(c: Connection) -> None:
        outbox.say(c, turn, DeliveryKind.MESSAGE, "message.sent", {}, "")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.transact(work)
    assert await deliveries.page("g", None) == []


@pytest.mark.parametrize(
    ("own", "last", "hook", "target"),
    [
        ("https://own", "https://last", "https://hook", "https://own"),
        ("", "https://last", "https://hook", "https://last"),
        ("", "", "https://hook", "https://hook"),
        ("", "", "", None),
    ],
)
async def test_an_answer_goes_to_the_nearest_place_that_was_named(
    store: Store, deliveries: Deliveries, own: str, last: str, hook: str, target: str | None
) -> None:
    await end(store, await begin(store, reply_url=last))
    before = await deliveries.page("g", None)
    await end(store, await begin(store, reply_url=own), hook=hook)
    now = await deliveries.page("g", None)
    assert [d.target for d in now[len(before) :]] == ([target] if target else [])


async def test_what_is_said_in_mid_turn_comes_before_the_answer(
    store: Store, deliveries: Deliveries
) -> None:
    turn = await begin(store, reply_url=URL)
    said = [await say(store, turn, text) for text in ("one", "two")]
    await end(store, turn)
    rows = await deliveries.page("g", None)
    assert [(d.ordinal, d.kind) for d in rows] == [
        (0, DeliveryKind.MESSAGE),
        (1, DeliveryKind.MESSAGE),
        (2, DeliveryKind.ANSWER),
    ]
    assert [d.id for d in rows[:2]] == [d.id for d in said if d is not None]
    first = await taken(deliveries)
    assert (first.body["text"], first.body["turn_id"]) == ("one", turn.id)


async def test_what_there_is_nobody_to_tell_is_not_kept(
    store: Store, deliveries: Deliveries
) -> None:
    turn = await begin(store)
    assert await say(store, turn, "hello") is None
    assert await end(store, turn)
    assert await deliveries.page("g", None) == []


async def test_another_group_is_told_at_its_own_address_and_nothing_of_the_first(
    store: Store, deliveries: Deliveries
) -> None:
    await answer(store, "other", "https://other")
    turn = await begin(store, reply_url=URL, metadata={"secret": 1}, external_id="x")
    told = await say(store, turn, "hello", group="other")
    assert told is not None
    assert (told.group, told.target) == ("other", "https://other")
    assert (told.body["message_ids"], told.body["external_ids"]) == ([], [])
    assert "metadata" not in told.body
    await end(store, turn)
    assert [d.ordinal for d in await deliveries.page("g", None)] == [1]


async def test_nothing_is_said_in_a_turn_that_is_over_or_taken_over(store: Store) -> None:
    first = await begin(store)
    again = await store.claim("g", HOST, next(_ids))
    assert isinstance(again, Claim)
    with pytest.raises(ConflictError):
        await say(store, first, "late")
    await say(store, again.turn, "right")
    await end(store, again.turn)
    with pytest.raises(ConflictError):
        await say(store, again.turn, "too late")


async def test_the_next_leaves_only_after_the_former_has_ended(
    store: Store, deliveries: Deliveries
) -> None:
    for _ in range(2):
        await answer(store)
    first = await taken(deliveries)
    assert await deliveries.claim("g", 60) is None
    assert await deliveries.again(first, time.time() + 60, "no")
    assert await deliveries.claim("g", 60) is None  # the first waits, and the second for it
    assert [h.next_at > time.time() for h in await deliveries.heads(HOST)] == [True]


@pytest.mark.parametrize("how", ["delivered", "rejected"])
async def test_an_ended_delivery_makes_room_for_the_next(
    store: Store, deliveries: Deliveries, how: str
) -> None:
    for _ in range(2):
        await answer(store)
    first = await taken(deliveries)
    if how == "delivered":
        assert await deliveries.delivered(first)
    else:
        log = Event(next(_ids), "g", "delivery.failed", {})
        assert await deliveries.reject(first, "gone", log)
        assert log in await store.events_after("g", 0)
    assert (await taken(deliveries)).seq > first.seq


async def test_groups_do_not_wait_for_each_other(store: Store, deliveries: Deliveries) -> None:
    for group in ("a", "b", "a", "c"):
        await answer(store, group, f"https://{group}")
    assert {(h.group, h.target) for h in await deliveries.heads(HOST)} == {
        ("a", "https://a"),
        ("b", "https://b"),
        ("c", "https://c"),
    }
    assert [h.group for h in await deliveries.heads(HOST, ["b", "none"])] == ["b"]
    await taken(deliveries, "a")
    await taken(deliveries, "b")


async def test_of_many_who_want_it_one_sends_it(place: Place) -> None:
    stores = [await Store.open(place) for _ in range(2)]
    await answer(stores[0])
    hosts = [Deliveries(store) for store in stores]
    got = await asyncio.gather(*(hosts[n % 2].claim("g", 60) for n in range(10)))
    assert sum(d is not None for d in got) == 1
    for store in stores:
        await store.close()


async def test_what_a_dead_host_was_sending_is_sent_again_with_the_same_id(
    store: Store, deliveries: Deliveries
) -> None:
    await answer(store)
    dead = await taken(deliveries, lasts=0)
    living = await taken(deliveries)
    assert (living.id, living.attempts) == (dead.id, 2)
    assert not await deliveries.delivered(dead)
    log = Event(next(_ids), "g", "delivery.failed", {})
    assert not await deliveries.reject(dead, "late", log)
    assert log not in await store.events_after("g", 0)
    assert await deliveries.delivered(living)


async def test_a_rejected_one_is_tried_again_when_an_operator_says_so(
    store: Store, deliveries: Deliveries
) -> None:
    await answer(store)
    first = await taken(deliveries)
    for wrong in ("g", "dlv_none"), ("other", first.id):
        with pytest.raises(NotFoundError):
            await deliveries.retry(*wrong)
    with pytest.raises(ConflictError):
        await deliveries.retry("g", first.id)
    await deliveries.reject(first, "gone", Event(next(_ids), "g", "delivery.failed", {}))
    assert await deliveries.counts() == await deliveries.counts("g")
    assert (await deliveries.counts())[DeliveryState.REJECTED] == 1
    assert (await deliveries.counts("other"))[DeliveryState.REJECTED] == 0
    assert [d.error for d in await deliveries.page("g", DeliveryState.REJECTED)] == ["gone"]
    again = await deliveries.retry("g", first.id)
    assert again.since > first.since
    assert (await taken(deliveries)).id == first.id


async def test_a_deleted_group_has_nothing_to_send(store: Store, deliveries: Deliveries) -> None:
    await answer(store)
    sending = await taken(deliveries)
    await store.delete_group("g")
    assert await deliveries.heads(HOST) == []
    assert not await deliveries.delivered(sending)
    with pytest.raises(NotFoundError):
        await deliveries.page("g", None)


async def test_a_host_that_comes_back_sends_what_it_was_sending(
    store: Store, deliveries: Deliveries
) -> None:
    await answer(store)
    await answer(store, "other")
    first = await taken(deliveries)
    assert await deliveries.recover("another host") == 0
    assert await deliveries.claim("g", 60) is None
    assert await deliveries.recover(HOST) == 1
    assert (await taken(deliveries)).id == first.id


async def test_hosts_leave_each_other_their_groups(store: Store, deliveries: Deliveries) -> None:
    await store.transact(lambda c: hosts.enter(c, HOST, 1.0))
    await answer(store)
    assert [h.group for h in await deliveries.heads(HOST)] == ["g"]
    assert await deliveries.heads("another host") == []
    await store.transact(lambda c: hosts.leave(c, HOST, 1.0))
    assert [h.group for h in await deliveries.heads("another host")] == ["g"]
