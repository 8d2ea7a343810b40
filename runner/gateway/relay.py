"""One Unix socket per sandbox that leads to its model and its host's tools, and nowhere else.

A sandbox has no network. What it may reach is the socket in its run directory: the relay there
checks the sandbox's scoped token, holds the request to the group's own model and hands it to the
gateway, which puts the real token on, streams the answer through and books it on the group. What
else the host has on offer there is an application for each path. Which socket a request came by
says which group is calling; the scoped token is worth nothing anywhere else and dies with the
socket.

The peers are hostile by assumption: bodies, headers, connections and waits are bounded, and no
header of theirs is passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from runner.errors import TemporaryError
from runner.gateway.exchange import read_request
from runner.gateway.failure import GatewayFailure
from runner.gateway.formats.errors import Untranslatable
from runner.gateway.routes import deliver, failed, read_body
from runner.gateway.service import Caller, Gateway

MAX_BODIES = 2
MAX_CONNECTIONS = 8
REQUEST_DEADLINE = 10.0
RATE = 200.0
"""Requests of a sandbox in a second; more than a few of them is no work, and costs the others."""

BURST = 400
LONGEST_WAIT = 1.0
MAX_SOCKET_PATH = 100  # the kernel's limit is 107 bytes


def new_scoped_token() -> str:
    """A bearer token that only one relay socket knows."""
    return f"nk-sandbox-{secrets.token_urlsafe(32)}"


@dataclass(slots=True)
class Pace:
    """Who asks faster than :data:`RATE` waits; who would wait too long is sent away."""

    free_at: float = 0.0

    def wait(self, now: float) -> float | None:
        """Seconds that a request of now has to wait; ``None``: too many wait already. Pure."""
        free_at = max(self.free_at, now - BURST / RATE)
        if free_at - now > LONGEST_WAIT:
            return None
        self.free_at = free_at + 1 / RATE
        return max(0.0, free_at - now)


@dataclass(frozen=True, slots=True)
class Door:
    """What one sandbox may do: ``model`` is the only one it may ask for.

    The gateway knows it as ``alias``, with the fallbacks that the operator gave it.
    """

    group: str
    alias: str
    model: str
    token: str = field(repr=False)
    bodies: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_BODIES))
    pace: Pace = field(default_factory=Pace)


class _Connection(H11Protocol):
    """A connection of a sandbox: there are only so many, and each soon has to ask for something."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._silent = self.loop.call_later(REQUEST_DEADLINE, transport.abort)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None:
            self._silent.cancel()


Beside = Callable[[str, Scope, Receive, Send], Awaitable[None]]
"""What answers at one path of every socket; it is told whose socket it is."""


class Relay:
    """All open sockets; what comes by them goes through the gateway of now, or to one ``beside``
    it, by path.
    """

    def __init__(
        self, gateway: Callable[[], Gateway], beside: Mapping[str, Beside] | None = None
    ) -> None:
        self._gateway = gateway
        self._beside = dict(beside or {})
        self._open: dict[Path, tuple[asyncio.Server, ServerState]] = {}

    async def open(self, path: Path, door: Door) -> None:
        """Listen at ``path`` (its directory is made, mode 0711) for one sandbox.

        A socket that is open there already is closed first: one generation, one token.
        """
        await self.close(path)
        listener = await asyncio.to_thread(_listen, path)
        app = functools.partial(self._serve, door)
        config = Config(
            app,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            h11_max_incomplete_event_size=32 * 1024,
        )
        config.load()
        state = ServerState()
        protocol = functools.partial(_Connection, config=config, server_state=state, app_state={})
        server = await asyncio.get_running_loop().create_unix_server(protocol, sock=listener)
        self._open[path] = (server, state)

    async def close(self, path: Path) -> None:
        """Stop listening, break what is under way, remove the socket. Fine when not open."""
        found = self._open.pop(path, None)
        if found is None:
            return
        server, state = found
        server.close()
        for connection in list(state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        path.unlink(missing_ok=True)

    async def aclose(self) -> None:
        """Close every socket."""
        for path in list(self._open):
            await self.close(path)

    # -- one request ----------------------------------------------------------------------------

    async def _serve(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        wait = door.pace.wait(time.monotonic())
        if wait is None:
            await _TOO_MANY(scope, receive, send)
            return
        if wait:
            await asyncio.sleep(wait)
        with contextlib.suppress(ClientDisconnect):  # the sandbox hung up; the call is cancelled
            known = _knows(door, request)
            if known and (app := self._beside.get(request.url.path)):
                await app(door.group, scope, receive, send)
                return
            response = await self._answer(door, request) if known else _UNKNOWN
            await response(scope, receive, send)

    async def _answer(self, door: Door, request: Request) -> Response:
        if request.url.path != "/v1/chat/completions":
            here = ", ".join(("/v1/chat/completions", *self._beside))
            return _error(404, "resource_not_found_error", f"there is nothing here but {here}")
        if request.method != "POST":
            return _error(405, "invalid_request_error", "use POST")
        try:
            async with door.bodies:
                asked = read_request("openai", await read_body(request))
        except Untranslatable as e:
            return failed("openai", e.failure)
        if asked.model != door.model:
            return _error(404, "resource_not_found_error", f"this group's model is {door.model!r}")
        caller = Caller(scope=f"group:{door.group}", group=door.group)
        return await deliver(self._gateway(), caller, replace(asked, model=door.alias), request)


def _knows(door: Door, request: Request) -> bool:
    sent = request.headers.get("authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(sent.encode(), door.token.encode())


def _error(status: int, kind: str, message: str) -> Response:
    return failed("openai", GatewayFailure(status, kind, message))


_TOO_MANY = _error(429, "rate_limit_reached_error", "this sandbox asks too often")
_UNKNOWN = _error(401, "invalid_authentication_error", "this socket needs its own token")


def _listen(path: Path) -> socket.socket:
    try:
        return _bind(path)
    except OSError as e:
        raise TemporaryError(
            f"the sandbox's socket {path} cannot be made: {e.strerror}",
            hint="check the disk and the mode of data/run; it may be deleted while stopped",
            code="socket_failed",
        ) from None


def _bind(path: Path) -> socket.socket:
    path.parent.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.mkdir(exist_ok=True)
    path.parent.chmod(0o711)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            listener.bind(str(path))
        else:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
            try:
                listener.bind(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
        path.chmod(0o666)  # the sandbox's user is another one; the directory is mounted to it alone
        listener.listen(MAX_CONNECTIONS)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
