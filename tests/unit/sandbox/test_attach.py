"""The attached connection, against a real socket that speaks as an engine does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runner.errors import EngineError, SandboxGoneError
from runner.sandbox.agentlog import AgentLog
from runner.sandbox.attach import AttachedStreams, EngineAddress, attach

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n"


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@asynccontextmanager
async def engine(tmp_path: Path, then: Handler) -> AsyncIterator[EngineAddress]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await then(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "s")
    async with server:
        yield EngineAddress(socket=str(tmp_path / "s"))


async def attached(address: EngineAddress, tmp_path: Path) -> AttachedStreams:
    return await attach(address, "1.41", "c" * 64, AgentLog(tmp_path / "log"))


async def test_bytes_that_come_with_the_answer_are_not_lost(tmp_path: Path):
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(UPGRADED + frame(2, b"warming up") + frame(1, b"first\n"))
        await writer.drain()

    async with engine(tmp_path, talk) as address:
        streams = await attached(address, tmp_path)
        assert await streams.read() == b"first\n"
        assert await streams.read() == b""
        assert streams.stderr_tail() == "warming up"
        stamp, _, words = (tmp_path / "log").read_text().partition(" ")
        assert (stamp[-1], words) == ("Z", "warming up")


async def test_an_agent_that_does_not_read_is_given_up_at_the_deadline(tmp_path: Path):
    done = asyncio.Event()

    async def stall(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()

    async with engine(tmp_path, stall) as address:
        reader, writer = await asyncio.open_unix_connection(address.socket)
        writer.write(b"\r\n\r\n")
        streams = AttachedStreams(reader, writer, AgentLog(tmp_path / "log"), write_deadline=0.2)
        with pytest.raises(SandboxGoneError, match="did not read"):
            await streams.write(b"x" * (8 << 20))
        with pytest.raises(SandboxGoneError):
            await streams.write(b"more")
        done.set()


async def test_abort_wakes_a_waiting_reader_and_may_come_twice(tmp_path: Path):
    done = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(UPGRADED)
        await writer.drain()
        await done.wait()

    async with engine(tmp_path, silent) as address:
        streams = await attached(address, tmp_path)
        reading = asyncio.create_task(streams.read())
        await asyncio.sleep(0)
        streams.abort()
        streams.abort()
        async with asyncio.timeout(10):
            assert await reading == b""
        done.set()


async def test_bytes_unread_at_an_abort_are_dropped(tmp_path: Path):
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(UPGRADED + frame(1, b"late"))
        await writer.drain()

    async with engine(tmp_path, talk) as address:
        streams = await attached(address, tmp_path)
        streams.abort()
        assert await streams.read() == b""


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", SandboxGoneError),
        (b"HTTP/1.1 409 Conflict\r\n\r\n", SandboxGoneError),
        (b"HTTP/1.1 500 Oops\r\n\r\n", EngineError),
        (b"HTTP/1.1 101", EngineError),
        (b"", EngineError),
    ],
)
async def test_a_refused_attach_says_what_it_is(
    tmp_path: Path, answer: bytes, error: type[Exception]
):
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    async with engine(tmp_path, refuse) as address:
        with pytest.raises(error):
            await attached(address, tmp_path)


async def test_no_engine_is_an_engine_error(tmp_path: Path):
    with pytest.raises(EngineError):
        await attached(EngineAddress(socket=str(tmp_path / "none")), tmp_path)
