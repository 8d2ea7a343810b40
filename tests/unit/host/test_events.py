import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runner.host import events
from runner.host.events import BACKLOG, EventLog, Lagging
from runner.model import Event
from runner.store import Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "nanokimi.db")
    await store.put_group("g")
    yield store
    await store.close()


@pytest.fixture
async def log(store: Store) -> AsyncIterator[EventLog]:
    log = await EventLog.open(store)
    writer = asyncio.create_task(log.run())
    yield log
    writer.cancel()
    await asyncio.wait({writer})


async def take(log: EventLog, count: int, after: int | None = None) -> list[Event]:
    found: list[Event] = []
    async with contextlib.aclosing(log.follow("g", after)) as stream, asyncio.timeout(10):
        async for event in stream:
            found.append(event)
            if len(found) == count:
                break
    return found


async def test_everything_after_a_mark_is_seen_once_and_in_order(log: EventLog) -> None:
    mark = log.mark()
    for n in range(5):
        log.tell("g", events.TEXT_DELTA, {"n": n})
    reader = asyncio.create_task(take(log, 10, mark))
    await asyncio.sleep(0)
    for n in range(5, 10):
        log.tell("g", events.TOOL_STARTED, {"n": n})
    seen = await reader
    assert [e.data["n"] for e in seen] == list(range(10))
    assert [e.id for e in seen] == sorted({e.id for e in seen})


async def test_an_event_waits_for_one_before_it_that_is_still_being_written(
    log: EventLog, store: Store
) -> None:
    mark = log.mark()
    with log.writing("g") as id_:
        log.tell("g", events.TEXT_DELTA, {"n": 2})
        started = Event(id_, "g", events.TURN_STARTED, {"n": 1})
        await store.append_events([started])
        log.show(started)
    assert [e.data["n"] for e in await take(log, 2, mark)] == [1, 2]


async def test_a_write_that_failed_holds_nobody_up(log: EventLog) -> None:
    mark = log.mark()
    with contextlib.suppress(RuntimeError), log.writing("g"):
        log.tell("g", events.TEXT_DELTA, {"n": 1})
        raise RuntimeError
    assert [e.data["n"] for e in await take(log, 1, mark)] == [1]


async def test_facts_survive_a_restart_and_ids_go_on_growing(store: Store) -> None:
    first = await EventLog.open(store)
    mark = first.mark()
    writer = asyncio.create_task(first.run())
    await asyncio.sleep(0)
    first.tell("g", events.TOOL_STARTED, {"n": 1})
    first.tell("g", events.TEXT_DELTA, {"n": 2})
    writer.cancel()
    await asyncio.wait({writer})
    second = await EventLog.open(store)
    second.tell("g", events.TOOL_FINISHED, {"n": 3})
    seen = await take(second, 2, mark)
    assert [e.data["n"] for e in seen] == [1, 3]
    assert seen[0].id < seen[1].id


async def test_deltas_of_an_ended_turn_are_forgotten(log: EventLog) -> None:
    mark = log.mark()
    log.tell("g", events.TEXT_DELTA, {"n": 1})
    log.tell("g", events.TURN_FINISHED, {"n": 2})
    assert [e.data["n"] for e in await take(log, 1, mark)] == [2]


async def test_memory_keeps_nothing_of_a_turn_that_has_ended_and_is_written(store: Store) -> None:
    log = await EventLog.open(store)
    mark = log.mark()
    for n in range(3):
        log.tell("g", events.TOOL_FINISHED, {"n": n})
        log.tell("g", events.TEXT_DELTA, {"n": -1})
    log.tell("g", events.TURN_FINISHED, {"n": 3})
    assert log.unwritten == 4
    assert [e.data["n"] for e in await take(log, 4, mark)] == [0, 1, 2, 3]
    await log._flush()
    assert log.unwritten == 0
    assert not log._rings
    assert [e.data["n"] for e in await take(log, 4, mark)] == [0, 1, 2, 3]


async def test_what_is_written_while_somebody_begins_to_follow_is_seen_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await EventLog.open(store)
    mark = log.mark()
    log.tell("g", events.TOOL_STARTED, {"n": 1})
    look = store.events_after

    async def slow(group: str, after: int, limit: int = 1000) -> list[Event]:
        found = await look(group, after, limit)
        await log._flush()
        log.tell("g", events.TURN_FINISHED, {"n": 2})
        await log._flush()
        return found

    monkeypatch.setattr(store, "events_after", slow)
    assert [e.data["n"] for e in await take(log, 2, mark)] == [1, 2]


async def test_a_reader_that_lags_is_told_to_come_back(log: EventLog) -> None:
    stream = log.follow("g", log.mark())
    log.tell("g", events.TOOL_STARTED, {"n": -1})
    assert (await anext(stream)).data["n"] == -1
    for n in range(BACKLOG + 10):
        log.tell("g", events.TEXT_DELTA, {"n": n})
    with pytest.raises(Lagging):
        async for _ in stream:
            pass
    await stream.aclose()


async def test_groups_do_not_hear_each_other(log: EventLog) -> None:
    mark = log.mark()
    log.tell("other", events.TOOL_STARTED, {"n": 1})
    log.tell("g", events.TOOL_STARTED, {"n": 2})
    assert [e.group for e in await take(log, 1, mark)] == ["g"]


async def test_the_end_of_a_group_ends_its_streams(log: EventLog) -> None:
    stream = log.follow("g")
    reader = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0)
    log.forget("g")
    assert await asyncio.wait_for(reader, 5) is None
    await stream.aclose()
