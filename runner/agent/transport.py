"""HTTP/1.1 POST with a streamed answer, over TCP, TLS or a Unix socket.

h11 knows the protocol, asyncio the bytes. A whole HTTP client library would cost the cold start a
tenth of a second and a third of the agent's memory for one kind of request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import h11

from runner.agent.failures import ModelFailure
from runner.errors import ConfigError

READ_SIZE = 65536
MAX_ERROR_BODY = 65536


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: to connect; to the first byte and between bytes."""

    connect: float = 10.0
    idle: float = 120.0


class _Stale(Exception):
    """A kept connection turned out to be closed before the answer began."""


class Response:
    """Status and headers are here; the body comes through :meth:`chunks`."""

    def __init__(self, link: _Link, head: h11.Response) -> None:
        self._link = link
        self.status = head.status_code
        self._headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}

    def header(self, name: str) -> str | None:
        return self._headers.get(name.lower())

    async def chunks(self) -> AsyncIterator[bytes]:
        """Body bytes as they come.

        Raises:
            ModelFailure: the connection broke or went silent.
        """
        while True:
            event = await self._link.next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return

    async def all(self, most: int) -> bytes | None:
        """The whole body; ``None`` when it has more than ``most`` bytes."""
        parts: list[bytes] = []
        async for chunk in self.chunks():
            most -= len(chunk)
            if most < 0:
                return None
            parts.append(chunk)
        return b"".join(parts)

    async def body(self) -> bytes:
        """At most ``MAX_ERROR_BODY`` bytes of a short answer."""
        got = b""
        async for chunk in self.chunks():
            got += chunk
            if len(got) >= MAX_ERROR_BODY:
                break
        return got[:MAX_ERROR_BODY]


class Transport:
    """Connections to one base URL; the last one is kept for the next request.

    Args:
        base_url: ``http://`` or ``https://``; names the host also when a socket leads there.
        socket: Unix socket to go through, or ``None``.

    Raises:
        ConfigError: ``base_url`` is not an HTTP URL.
    """

    def __init__(self, base_url: str, socket: Path | None, deadlines: Deadlines) -> None:
        try:
            url = urlsplit(base_url)
            port = url.port
        except ValueError:
            raise _bad_url(base_url) from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise _bad_url(base_url)
        self._host = url.hostname
        self._port = port or (443 if url.scheme == "https" else 80)
        self._authority = url.netloc.rsplit("@", 1)[-1]
        self._path = url.path.rstrip("/")
        self._socket = socket
        self._tls = ssl.create_default_context() if url.scheme == "https" and not socket else None
        self._deadlines = deadlines
        self._kept: _Link | None = None

    @asynccontextmanager
    async def post(
        self, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> AsyncIterator[Response]:
        """Send, and yield when the answer's head is there.

        Raises:
            ModelFailure: ``provider_unavailable``, ``provider_timeout`` or ``stream_cut``.
        """
        request = h11.Request(
            method="POST",
            target=self._path + path,
            headers=[
                ("Host", self._authority),
                ("Accept-Encoding", "identity"),
                ("Content-Length", str(len(body))),
                *headers,
            ],
        )
        link, head = await self._exchange(request, body)
        keep = False
        try:
            yield Response(link, head)
            keep = self._kept is None and link.recycle()
        finally:
            if keep:
                self._kept = link
            else:
                link.close()

    async def _exchange(self, request: h11.Request, body: bytes) -> tuple[_Link, h11.Response]:
        kept, self._kept = self._kept, None
        if kept is not None:
            try:
                return kept, await _send(kept, request, body)
            except _Stale:
                kept.close()
            except BaseException:
                kept.close()
                raise
        link = await self._connect()
        try:
            return link, await _send(link, request, body)
        except _Stale:
            link.close()
            raise ModelFailure(
                "the provider closed the connection without an answer",
                code="provider_unavailable",
                retryable=True,
            ) from None
        except BaseException:
            link.close()
            raise

    async def _connect(self) -> _Link:
        where = str(self._socket) if self._socket else f"{self._host}:{self._port}"
        try:
            async with asyncio.timeout(self._deadlines.connect):
                if self._socket is not None:
                    streams = await asyncio.open_unix_connection(self._socket)
                else:
                    streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        except TimeoutError:
            raise ModelFailure(
                f"no connection to {where} within {self._deadlines.connect:g} s",
                code="provider_timeout",
                retryable=True,
            ) from None
        except OSError as e:
            raise ModelFailure(
                f"no connection to {where}: {e}", code="provider_unavailable", retryable=True
            ) from None
        return _Link(*streams, idle=self._deadlines.idle)


class _Link:
    """One connection and its protocol state."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, idle: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._idle = idle
        self._http = h11.Connection(h11.CLIENT)
        self._began = False

    async def send(self, request: h11.Request, body: bytes) -> None:
        self._began = False
        head = self._http.send(request) or b""
        data = self._http.send(h11.Data(body)) or b""
        self._http.send(h11.EndOfMessage())
        with suppress(ConnectionError):  # an early refusal may be there to read all the same
            self._writer.write(head + data)
            try:
                async with asyncio.timeout(self._idle):
                    await self._writer.drain()
            except TimeoutError:
                raise self._silent() from None

    async def next_event(self) -> h11.Event:
        """The next event of the answer.

        Raises:
            _Stale: closed before the first byte.
            ModelFailure: closed or silent in the middle, or not HTTP.
        """
        try:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._read())
                elif isinstance(event, h11.Event) and not isinstance(
                    event, h11.InformationalResponse
                ):
                    return event
        except h11.RemoteProtocolError as e:
            if not self._began:
                raise _Stale from None
            raise _cut(str(e)) from None

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle):
                data = await self._reader.read(READ_SIZE)
        except TimeoutError:
            raise self._silent() from None
        except OSError as e:
            if not self._began:
                raise _Stale from None
            raise _cut(str(e)) from None
        if not data and not self._began:
            raise _Stale
        self._began = True
        return data

    def _silent(self) -> ModelFailure:
        return ModelFailure(
            f"the provider was silent for {self._idle:g} s",
            code="provider_timeout",
            retryable=True,
        )

    def recycle(self) -> bool:
        """Make ready for another request; false when the connection cannot be used again."""
        try:
            self._http.start_next_cycle()
        except h11.LocalProtocolError:
            return False
        return not self._reader.at_eof()

    def close(self) -> None:
        self._writer.close()


async def _send(link: _Link, request: h11.Request, body: bytes) -> h11.Response:
    await link.send(request, body)
    event = await link.next_event()
    assert isinstance(event, h11.Response)
    return event


def _bad_url(base_url: str) -> ConfigError:
    return ConfigError(
        f"base_url {base_url[:200]!r} is not an HTTP URL",
        hint="write it like https://api.kimi.com/coding/v1",
    )


def _cut(why: str) -> ModelFailure:
    return ModelFailure(
        f"the provider's answer broke off: {why}", code="stream_cut", retryable=True
    )
