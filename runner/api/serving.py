"""Sockets and a server for any ASGI app, inside the running event loop.

Apart from ``server``, so that the gateway alone loads nothing of the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from runner.errors import PermanentError

CLOSE_DEADLINE = 3


class _Server(uvicorn.Server):
    """Signals are the caller's business: it drains turns before the sockets close."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: ASGIApp, host: str, port: int) -> AsyncIterator[str]:
    """Serve inside the block; gives the URL (port 0 takes a free one).

    Raises:
        PermanentError: the address cannot be listened on.
    """
    with contextlib.closing(listen(host, port)) as listener:
        async with serving_on(app, listener) as url:
            yield url


@asynccontextmanager
async def serving_on(app: ASGIApp, listener: socket.socket) -> AsyncIterator[str]:
    """Serve what arrives at a listening socket inside the block; gives the URL."""
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=CLOSE_DEADLINE,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http server")
    try:
        await server.up.wait()
        yield url_of(listener)
    finally:
        server.should_exit = True
        await task


def url_of(listener: socket.socket) -> str:
    """Where a socket is reached, or will be when it listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    ``shared``: at an address that :func:`reserve` holds, beside other processes; the kernel spreads
    new connections evenly over those that listen.

    Raises:
        PermanentError: the address cannot be listened on.
    """
    listener = _bound(host, port, shared=shared)
    listener.listen(512)
    return listener


def reserve(host: str, port: int) -> socket.socket:
    """A socket that does not listen, and holds an address for processes that will.

    Raises:
        PermanentError: the address cannot be listened on.
    """
    # Sharing would also be granted beside a stranger of the same user: ask for it alone first.
    with contextlib.closing(listen(host, port)) as alone:
        taken = alone.getsockname()[1]
    return _bound(host, taken, shared=True)


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Event loops switch Nagle's delay off only where the protocol is named: 40 ms for each answer.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as e:
        bound.close()
        raise PermanentError(
            f"cannot listen on {host}:{port}: {e.strerror}",
            hint="choose another [server] listen, or end what listens there",
            code="cannot_listen",
        ) from None
    return bound
