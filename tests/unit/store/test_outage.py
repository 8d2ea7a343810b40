"""A database that is locked, away or broken for a while: what was accepted stays accepted."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from database_server import PostgresServer, Wire, locked

from runner.errors import TemporaryError
from runner.model import Event, Message, TurnState
from runner.store import Claim, Place, Store, sqlite

_ids = iter(range(1, 10**9))


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Store]:
    store = await Store.open(place)
    try:
        yield store
    finally:
        await store.close()


async def say(store: Store, text: str) -> None:
    event = Event(next(_ids), "g", "message.accepted", {})
    message = Message(f"msg_{next(_ids)}", "g", 0, text, "Ada", created_at=time.time())
    await store.accept(message, 100, event)


async def texts(store: Store) -> list[str]:
    return [m.text for m in await store.messages("g")]


async def refused(store: Store, text: str) -> str:
    with pytest.raises(TemporaryError) as e:
        await say(store, text)
    assert e.value.hint
    return e.value.code


async def test_a_message_waits_for_another_process_to_finish_its_writing(tmp_path: Path) -> None:
    path = tmp_path / "nanokimi.db"
    async with opened(path) as store:
        with locked(path) as holder:
            said = asyncio.create_task(say(store, "patient"))
            done, _ = await asyncio.wait({said}, timeout=0.3)
            assert not done
            await asyncio.to_thread(holder.communicate)
            async with asyncio.timeout(sqlite.LOCK_WAIT):
                await said
        assert await texts(store) == ["patient"]


async def test_a_lock_that_stays_refuses_and_looking_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOCK_WAIT", 0.5)
    path = tmp_path / "nanokimi.db"
    async with opened(path) as store:
        await say(store, "before")
        with locked(path):
            assert await refused(store, "meanwhile") == "store_locked"
            assert await texts(store) == ["before"]
        await say(store, "after")
        assert await texts(store) == ["before", "after"]


async def test_a_server_that_comes_back_is_used_again_by_the_next_call(
    postgres: PostgresServer, postgres_url: str
) -> None:
    async with opened(postgres_url) as store:
        await say(store, "before")
        postgres.stop()
        assert await refused(store, "meanwhile") == "store_unavailable"
        with pytest.raises(TemporaryError):
            await texts(store)
        postgres.start()
        await say(store, "after")
        assert await texts(store) == ["before", "after"]


async def test_a_restart_that_nobody_noticed_costs_no_message(
    postgres: PostgresServer, postgres_url: str
) -> None:
    async with opened(postgres_url) as store:
        await say(store, "before")
        assert await texts(store) == ["before"]
        postgres.stop()
        postgres.start()
        await say(store, "after")
        assert await texts(store) == ["before", "after"]


async def test_a_connection_that_breaks_in_a_commit_leaves_nobody_in_doubt(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    with Wire(postgres, tmp_path) as wire:
        async with opened(wire.url(postgres_url)) as store:
            await say(store, "before")
            wire.cut = "answer"
            await say(store, "committed")
            wire.cut = "request"
            assert await refused(store, "lost") == "store_unavailable"
            wire.cut = "answer"
            await asyncio.gather(*(say(store, f"together {n}") for n in range(5)))
            await say(store, "after")
            assert wire.cuts == 3
            together = [f"together {n}" for n in range(5)]
            assert await texts(store) == ["before", "committed", *together, "after"]


async def test_what_was_acknowledged_survives_a_crash_of_the_server(
    postgres: PostgresServer, postgres_url: str
) -> None:
    async with opened(postgres_url) as store:
        acknowledged: list[str] = []

        async def talk(name: int) -> None:
            for n in range(1000):
                try:
                    await say(store, f"{name}-{n}")
                except TemporaryError:
                    return
                acknowledged.append(f"{name}-{n}")
                if len(acknowledged) == 50:
                    await asyncio.to_thread(postgres.stop, signal.SIGQUIT)

        await asyncio.gather(*(talk(name) for name in range(3)))
        postgres.start()
        found = [m.text for m in await store.messages("g", limit=10_000)]
        assert len(acknowledged) >= 50
        assert set(acknowledged) <= set(found)
        assert len(found) == len(set(found))


async def test_an_answer_that_no_database_can_hold_is_kept_as_it_can_be(place: Place) -> None:
    async with opened(place) as store:
        await say(store, "question")
        got = await store.claim("g", "host", next(_ids))
        assert isinstance(got, Claim)
        told = {"text": "a\0b\ud800c"}
        ended = replace(got.turn, state=TurnState.DONE, text=told["text"], finished_at=time.time())
        assert await store.finish(ended, Event(next(_ids), "g", "turn.finished", told))
        assert (await store.turn(ended.id)).text == "a\ufffdb\ufffdc"
        assert (await store.events_after("g", 0))[-1].data == told
