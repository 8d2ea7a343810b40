"""What ended long ago goes; what is owed to somebody stays, however old it is."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy import Connection, func, insert, select

from runner.errors import NotFoundError
from runner.host.janitor import forget
from runner.model import DeliveryState, Event, Message, MessageState, Turn, TurnState
from runner.store import Claim, Place, Store
from runner.store import schema as t
from runner.store.retention import BATCH, Retention

DAY = 86_400.0
NOW = time.time()
OLD, BEFORE = NOW - 100 * DAY, NOW - 90 * DAY
_ids = iter(range(1, 10**9))


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = await Store.open(place)
    yield store
    await store.close()


def event(at: float) -> Event:
    return Event(int(at * 1e6) + next(_ids), "g", "something", {})


async def say(store: Store, text: str, at: float, *, wakes: bool = True, external: str = "") -> str:
    message = Message(
        f"msg_{next(_ids)}", "g", 0, text, "Ada",
        external_id=external or None, wakes=wakes, created_at=at,
    )  # fmt: skip
    return (await store.accept(message, 10_000, event(at))).message.id


async def end(store: Store, at: float, state: TurnState = TurnState.DONE) -> Turn:
    """Let one turn take what waits, and end."""
    got = await store.claim("g", "host", event(at).id)
    assert isinstance(got, Claim)
    ended = replace(got.turn, state=state, finished_at=at)
    assert await store.finish(ended, event(at))
    return ended


async def rows(store: Store, table: str) -> int:
    query = select(func.count()).select_from(t.metadata.tables[table])
    return await store.read(lambda c: c.scalar(query) or 0)


async def texts(store: Store) -> list[str]:
    return [m.text for m in await store.messages("g", limit=10_000)]


async def deliver(store: Store, turn: Turn, state: DeliveryState, at: float) -> None:
    def work(c: Connection) -> None:
        c.execute(
            insert(t.outbox).values(
                id=f"out_{next(_ids)}", group_id="g", turn_id=turn.id, ordinal=next(_ids),
                kind="answer", body={}, channel="webhook", target="http://x", state=state,
                next_at=at, created_at=at, since=at,
                finished_at=at if state is DeliveryState.DELIVERED else None,
            )
        )  # fmt: skip

    await store.transact(work)


async def test_an_old_turn_goes_with_its_messages_calls_deliveries_and_events(
    store: Store,
) -> None:
    await say(store, "old", OLD)
    turn = await end(store, OLD)
    await deliver(store, turn, DeliveryState.DELIVERED, OLD)
    call = insert(t.tool_calls).values(
        turn_id=turn.id, key="k", group_id="g", tool="x", result={}, created_at=OLD
    )
    await store.transact(lambda c: c.execute(call).rowcount)
    await say(store, "new", NOW)
    kept = await end(store, NOW)
    await forget(Retention(store), BEFORE)
    assert await texts(store) == ["new"]
    assert (await store.turn(kept.id)).state is TurnState.DONE
    with pytest.raises(NotFoundError):
        await store.turn(turn.id)
    counts = {name: await rows(store, name) for name in ("turns", "outbox", "tool_calls", "groups")}
    assert counts == {"turns": 1, "outbox": 0, "tool_calls": 0, "groups": 1}
    assert all(e.id >= BEFORE * 1e6 for e in await store.events_after("g", 0))


async def test_nothing_that_waits_for_an_answer_goes(store: Store) -> None:
    await say(store, "claimed", OLD)
    got = await store.claim("g", "host", event(OLD).id)
    await say(store, "queued", OLD)
    await forget(Retention(store), BEFORE)
    assert await texts(store) == ["claimed", "queued"]
    assert isinstance(got, Claim)
    assert (await store.turn(got.turn.id)).state is TurnState.RUNNING


@pytest.mark.parametrize("state", [DeliveryState.PENDING, DeliveryState.SENDING])
async def test_a_turn_whose_answer_was_not_delivered_stays(
    store: Store, state: DeliveryState
) -> None:
    await say(store, "question", OLD)
    turn = await end(store, OLD)
    await deliver(store, turn, state, OLD)
    await forget(Retention(store), BEFORE)
    assert await texts(store) == ["question"]
    assert await rows(store, "outbox") == 1


async def test_context_that_was_dropped_goes_and_context_that_waits_stays(store: Store) -> None:
    for n in range(205):  # only the newest 200 are kept waiting
        await say(store, f"c{n}", OLD, wakes=False)
    await forget(Retention(store), BEFORE)
    left = await store.messages("g", limit=1000)
    assert {m.state for m in left} == {MessageState.QUEUED}
    assert len(left) == 200


async def test_more_than_a_batch_goes_in_one_sweep_and_old_unended_ones_do_not_stop_it(
    store: Store,
) -> None:
    await say(store, "unended", OLD)
    row = {"group_id": "g", "channel": "", "sender": "", "text": "", "wakes": False,
           "state": MessageState.DROPPED, "metadata": {}, "created_at": OLD}  # fmt: skip
    many = [{**row, "id": f"dropped_{n}"} for n in range(2 * BATCH + 10)]
    await store.transact(lambda c: c.execute(insert(t.messages), many).rowcount)
    await forget(Retention(store), BEFORE)
    assert await texts(store) == ["unended"]


async def test_an_external_id_is_free_again_when_its_message_is_forgotten(store: Store) -> None:
    first = await say(store, "hello", OLD, external="x1")
    await end(store, OLD)
    assert await say(store, "hello", NOW, external="x1") == first
    await forget(Retention(store), BEFORE)
    assert await say(store, "hello", NOW, external="x1") != first


async def test_a_task_that_is_done_goes_with_its_conversation_and_an_active_one_stays(
    store: Store,
) -> None:
    await store.put_group("g")

    def work(c: Connection) -> None:
        for id_, state in (("one", "done"), ("two", "active")):
            c.execute(
                insert(t.tasks).values(
                    id=id_, group_id="g", prompt="p", kind="once", spec="", timezone="UTC",
                    state=state, session="own", missed="once", created_by="", created_at=OLD,
                )
            )  # fmt: skip
            c.execute(insert(t.sessions).values(group_id="g", name=f"task:{id_}", session_id="s"))

    await store.transact(work)
    await forget(Retention(store), BEFORE)
    names = await store.read(lambda c: list(c.scalars(select(t.sessions.c.name))))
    assert names == ["task:two"]
    assert await rows(store, "tasks") == 1
