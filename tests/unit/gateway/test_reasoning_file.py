"""The reasoning memory: shared, bounded, private to each scope, and harmless to lose."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runner.gateway.reasoning import CallKey, Limits, Thought
from runner.gateway.reasoning_file import ReasoningFile

KEY = CallKey("call", "context")


@asynccontextmanager
async def memory(path: Path | None, **options: Any) -> AsyncIterator[ReasoningFile]:
    opened = ReasoningFile(path, **options)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture(params=["file", "process"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "data" / "reasoning.db" if request.param == "file" else None


def numbered(count: int, text: str = "x") -> list[Thought]:
    return [Thought(CallKey(f"call {n}", ""), text) for n in range(count)]


async def test_what_was_thought_is_found_again_byte_for_byte(place: Path | None) -> None:
    text = " \x00 thought\u2028\n\U0001f9e0"
    async with memory(place) as m:
        assert await m.recall("group", [KEY]) == {}
        await m.remember("group", [Thought(KEY, text)])
        assert await m.recall("group", [KEY, CallKey("other", "context")]) == {KEY: text}


async def test_nobody_gets_another_scope_s_reasoning(place: Path | None) -> None:
    async with memory(place) as m:
        await m.remember("group a", [Thought(KEY, "secret")])
        assert await m.recall("group b", [KEY]) == {}
        assert await m.recall("", [KEY]) == {}


async def test_of_equal_calls_the_one_in_this_context_is_taken_else_the_newest(
    place: Path | None,
) -> None:
    times = iter(float(n) for n in range(100))
    async with memory(place, now=lambda: next(times)) as m:
        for context in ("one", "two", "three"):
            await m.remember("g", [Thought(CallKey("call", context), context)])
        asked = [CallKey("call", "one"), CallKey("call", "elsewhere")]
        assert await m.recall("g", asked) == {asked[0]: "one", asked[1]: "three"}


async def test_a_thought_that_is_told_again_is_told_anew(place: Path | None) -> None:
    async with memory(place) as m:
        await m.remember("g", [Thought(KEY, "old")])
        await m.remember("g", [Thought(KEY, "new")])
        assert await m.recall("g", [KEY]) == {KEY: "new"}


async def test_the_oldest_goes_when_there_are_too_many(place: Path | None) -> None:
    limits = Limits(entries=10)
    async with memory(place, limits=limits, prune_every=1) as m:
        for thought in numbered(25):
            await m.remember("g", [thought])
        left = await m.recall("g", [t.key for t in numbered(25)])
        assert 9 <= len(left) <= 10
        assert {t.key for t in numbered(25)[-9:]} <= set(left)


async def test_the_oldest_goes_when_there_is_too_much_text(place: Path | None) -> None:
    text = "\u00e9" * 500
    async with memory(place, limits=Limits(bytes=10_000), prune_every=1) as m:
        for thought in numbered(25, text):
            await m.remember("g", [thought])
        left = await m.recall("g", [t.key for t in numbered(25)])
        assert 8 <= len(left) <= 10
        assert numbered(25)[-1].key in left


async def test_the_old_is_forgotten_and_what_is_used_lives_on(place: Path | None) -> None:
    clock = [0.0]
    used, idle = CallKey("used", ""), CallKey("idle", "")
    async with memory(place, limits=Limits(age=100), now=lambda: clock[0], prune_every=1) as m:
        await m.remember("g", [Thought(used, "u"), Thought(idle, "i")])
        clock[0] = 60
        assert await m.recall("g", [used]) == {used: "u"}
        clock[0] = 120
        assert await m.recall("g", [used, idle]) == {used: "u"}
        await m.remember("g", [Thought(KEY, "x")])  # a write clears the old away
        clock[0] = 60
        assert await m.recall("g", [used, idle]) == {used: "u"}


async def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    for n in range(3):
        async with memory(tmp_path / "r.db") as m:
            assert len(await m.recall("g", [t.key for t in numbered(9)])) == n
            await m.remember("g", numbered(9)[n : n + 1])


def _worker(path: Path, name: str) -> None:
    async def work() -> None:
        async with memory(path) as m:
            for n in range(50):
                await m.remember("g", [Thought(CallKey(f"{name} {n}", ""), name)])

    asyncio.run(work())


async def test_workers_share_what_they_remember(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    async with memory(path) as m:
        await m.remember("g", [Thought(KEY, "before")])
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_worker, args=(path, name)) for name in "ab"]
        for worker in workers:
            worker.start()
        for worker in workers:
            await asyncio.to_thread(worker.join, 60)
            assert worker.exitcode == 0
        keys = [CallKey(f"{name} {n}", "") for name in "ab" for n in range(50)]
        assert len(await m.recall("g", [*keys, KEY])) == 101


async def test_the_file_is_its_owner_s_and_holds_no_scope(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    async with memory(path) as m:
        await m.remember("sk-very-secret", [Thought(KEY, "x")])
        files = list(tmp_path.glob("r.db*"))
        assert {oct(f.stat().st_mode & 0o777) for f in files} == {"0o600"}
        assert not any(b"sk-very-secret" in f.read_bytes() for f in files)


async def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    path.write_bytes(b"this is no database" * 500)
    async with memory(path) as m:
        assert await m.recall("g", [KEY]) == {}
        await m.remember("g", [Thought(KEY, "x")])
        assert await m.recall("g", [KEY]) == {KEY: "x"}


async def test_a_file_that_cannot_be_had_is_a_memory_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    async with memory(tmp_path / "taken" / "r.db") as m:
        await m.remember("g", [Thought(KEY, "x")])
        assert await m.recall("g", [KEY]) == {}


async def test_a_lock_that_stays_loses_a_thought_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    async with memory(path) as m:
        await m.remember("g", [Thought(KEY, "kept")])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await m.remember("g", [Thought(KEY, "lost")])
        assert await m.recall("g", [KEY]) == {KEY: "kept"}
        other.execute("ROLLBACK")
        other.close()
        await m.remember("g", [Thought(KEY, "new")])
        assert await m.recall("g", [KEY]) == {KEY: "new"}


async def test_text_that_no_file_can_hold_is_not_remembered(place: Path | None) -> None:
    async with memory(place) as m:
        await m.remember("g", [Thought(KEY, "\ud800")])
        assert await m.recall("g", [KEY]) == {}


async def test_a_closed_memory_knows_nothing_and_raises_nothing(place: Path | None) -> None:
    m = ReasoningFile(place)
    await m.remember("g", [Thought(KEY, "x")])
    await m.close()
    await m.close()
    await m.remember("g", [Thought(KEY, "x")])
    assert await m.recall("g", [KEY]) == {}
