from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runner.errors import ConfigError
from runner.settings.load import load_settings
from runner.settings.reload import watch_settings
from runner.settings.schema import Settings

from .conftest import WORKING, Data

Seen = asyncio.Queue[Settings | ConfigError]
PATIENCE = 30.0
NEVER = 600.0


@asynccontextmanager
async def watching(data: Data, poll: float = NEVER) -> AsyncIterator[Seen]:
    """By default without polling: what is seen was noticed by the system."""
    data.path.write_text(WORKING)
    seen: Seen = asyncio.Queue(maxsize=100)
    task = asyncio.create_task(
        watch_settings(
            data.path,
            lambda: load_settings(data.root, {}),
            seen.put_nowait,
            seen.put_nowait,
            poll=poll,
        )
    )
    await asyncio.sleep(0)  # its first step takes the content to compare with, and begins to watch
    try:
        yield seen
        assert not task.done()
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(PATIENCE):
                await task


async def next_of(seen: Seen) -> Settings | ConfigError:
    async with asyncio.timeout(PATIENCE):
        return await seen.get()


def replace(path: Path, text: str) -> None:
    """As editors do it: a new file, then a rename over the old one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def with_queue(size: int) -> str:
    return WORKING + f"[host]\nmax_queue = {size}\n"


async def test_a_file_replaced_by_rename_is_taken_up_each_time(data: Data) -> None:
    async with watching(data) as seen:
        for size in (1, 2, 3):
            replace(data.path, with_queue(size))
            got = await next_of(seen)
            assert isinstance(got, Settings)
            assert got.host.max_queue == size


async def test_a_file_edited_in_place_is_taken_up(data: Data) -> None:
    async with watching(data) as seen:
        with data.path.open("a") as file:
            file.write("[host]\nmax_queue = 5\n")
        got = await next_of(seen)
        assert isinstance(got, Settings)
        assert got.host.max_queue == 5


async def test_a_broken_change_is_reported_and_the_next_good_one_is_taken_up(data: Data) -> None:
    async with watching(data) as seen:
        replace(data.path, WORKING + "[host]\nmax_queu = 1\n")
        error = await next_of(seen)
        assert isinstance(error, ConfigError)
        assert "host.max_queue" in error.message
        replace(data.path, with_queue(8))
        got = await next_of(seen)
        assert isinstance(got, Settings)
        assert got.host.max_queue == 8


async def test_a_removed_file_is_reported_and_its_return_is_taken_up(data: Data) -> None:
    async with watching(data) as seen:
        data.path.unlink()
        error = await next_of(seen)
        assert isinstance(error, ConfigError)
        assert "nanokimi init" in error.hint
        data.path.write_text(with_queue(4))
        got = await next_of(seen)
        # The empty file that exists for a moment may be seen as well.
        while isinstance(got, ConfigError):
            got = await next_of(seen)
        assert got.host.max_queue == 4


async def test_neighbours_touches_and_time_change_nothing(data: Data) -> None:
    async with watching(data, poll=0.05) as seen:
        (data.root / "nanokimi.db-wal").write_text("x")
        data.path.touch()
        replace(data.path, WORKING)
        replace(data.path, with_queue(6))
        got = await next_of(seen)
        assert isinstance(got, Settings)
        assert got.host.max_queue == 6
        (data.root / "nanokimi.db-wal").write_text("y")
        data.path.touch()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await seen.get()


async def test_a_link_that_is_exchanged_is_followed(data: Data) -> None:
    """How configuration is often delivered: the file is a link, and its target is exchanged."""
    (data.root / "two").mkdir()
    (data.root / "two" / "config.toml").write_text(with_queue(9))
    async with watching(data) as seen:
        (data.root / "link").symlink_to("two/config.toml")
        os.replace(data.root / "link", data.path)
        got = await next_of(seen)
        assert isinstance(got, Settings)
        assert got.host.max_queue == 9


async def test_a_change_that_the_system_does_not_tell_of_is_found_by_polling(data: Data) -> None:
    elsewhere = data.root.parent / "elsewhere.toml"
    async with watching(data, poll=0.05) as seen:
        elsewhere.write_text(with_queue(2))
        (data.root / "link").symlink_to(elsewhere)
        os.replace(data.root / "link", data.path)
        got = await next_of(seen)
        assert isinstance(got, Settings)
        assert got.host.max_queue == 2
        elsewhere.write_text(with_queue(3))
        got = await next_of(seen)
        while isinstance(got, ConfigError):  # the moment in which it was empty
            got = await next_of(seen)
        assert got.host.max_queue == 3
