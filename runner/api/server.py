"""Serves the API of a host inside the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from runner.api.app import create_app
from runner.api.token import api_token
from runner.errors import PermanentError
from runner.gateway.routes import gateway_app
from runner.host.app import open_host
from runner.host.credentials import Credentials
from runner.host.lock import host_lock
from runner.sandbox.backend import open_spawner
from runner.sandbox.spawner import Spawner
from runner.settings.layout import Layout
from runner.settings.schema import Settings

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


@dataclass(frozen=True, slots=True)
class Served:
    """A host that serves; ``died`` is set when it has to be restarted."""

    url: str
    died: asyncio.Event


@asynccontextmanager
async def serving_host(
    layout: Layout, settings: Settings, address: str, port: int
) -> AsyncIterator[Served]:
    """A host with its API inside the block. At the end it drains.

    Raises:
        ConflictError: another host serves this data directory.
        EngineError, TemporaryError, PermanentError: it cannot start; see :func:`open_host`.
    """

    with host_lock(layout.host_lock) as lock:
        credentials = Credentials(layout.credentials)

        async def spawner(install: str) -> Spawner:
            return await open_spawner(
                settings.sandbox.backend, layout, install, image=settings.sandbox.image
            )

        try:
            async with open_host(layout, settings, spawner, credentials) as host:
                models = gateway_app(
                    lambda: host.models.gateway, lambda: host.settings.gateway.keys
                )
                app = by_path(models, create_app(host, api_token(layout)))
                async with serving(app, address, port) as url:
                    lock.announce(url)
                    try:
                        yield Served(url, host.died)
                    finally:
                        await host.drain()
        finally:
            await credentials.aclose()


def by_path(models: ASGIApp, api: ASGIApp) -> ASGIApp:
    """``/v1/…`` belongs to the model gateway with its own limits and error shapes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = models if str(scope.get("path", "")).startswith("/v1/") else api
        await chosen(scope, receive, send)

    return app


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
