"""HTTP over real sockets, with servers that behave badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runner.agent.failures import ModelFailure
from runner.agent.transport import Deadlines, Transport
from runner.errors import ConfigError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def server(tmp_path: Path, serve: Serve) -> AsyncIterator[Transport]:
    """A transport to a server on a Unix socket."""
    path = tmp_path / "s"

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    running = await asyncio.start_unix_server(connected, path)
    try:
        yield Transport("http://model/v1", path, Deadlines(connect=5, idle=0.3))
    finally:
        running.close()


async def request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def post(transport: Transport, body: bytes = b"{}") -> bytes:
    async with transport.post("/chat", [("X-Test", "1")], body) as response:
        return await response.body()


async def code_of(transport: Transport) -> str:
    with pytest.raises(ModelFailure) as failure:
        await post(transport)
    assert failure.value.retryable
    return failure.value.code


async def test_a_kept_connection_serves_the_next_request(tmp_path: Path) -> None:
    connections = 0
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            seen.append(await request(reader))
            writer.write(OK)

    async with server(tmp_path, serve) as transport:
        assert await post(transport) == await post(transport) == b"ok"
    assert connections == 1
    assert seen[0].startswith(b"POST /v1/chat HTTP/1.1\r\n")


async def test_a_kept_connection_that_was_closed_is_replaced(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        await writer.drain()

    async with server(tmp_path, serve) as transport:
        for _ in range(3):
            assert await post(transport) == b"ok"


async def test_a_provider_that_says_nothing_is_a_timeout(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await reader.read()  # until the client gives up

    async with server(tmp_path, serve) as transport:
        assert await code_of(transport) == "provider_timeout"


async def test_silence_in_the_middle_is_a_timeout_too(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK[:-1])
        await reader.read()

    async with server(tmp_path, serve) as transport:
        assert await code_of(transport) == "provider_timeout"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "provider_unavailable"),
        (OK[:-1], "stream_cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "stream_cut"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "stream_cut"),
    ],
)
async def test_a_connection_that_breaks_is_named(tmp_path: Path, answer: bytes, code: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(answer)

    async with server(tmp_path, serve) as transport:
        assert await code_of(transport) == code


async def test_a_refusal_before_the_body_was_read_is_heard(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        writer.write_eof()
        await reader.read()

    async with (
        server(tmp_path, serve) as transport,
        transport.post("/chat", [], b"x" * 8_000_000) as response,
    ):
        assert response.status == 413


async def test_nobody_behind_the_socket_is_unavailable(tmp_path: Path) -> None:
    transport = Transport("http://model/v1", tmp_path / "none", Deadlines())
    assert await code_of(transport) == "provider_unavailable"


@pytest.mark.parametrize("url", ["", "model/v1", "ftp://x/", "http://", "http://x:y/", "http://["])
def test_a_base_url_that_is_none_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError):
        Transport(url, None, Deadlines())
