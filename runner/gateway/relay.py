"""One Unix socket per sandbox that leads to its model, and nowhere else.

A sandbox has no network. What it may reach is the socket in its run directory: the relay there
checks the sandbox's scoped token, holds the request to the group's own model, puts the real token
on and streams the answer through. Which socket a request came by says which group is calling; the
scoped token is worth nothing anywhere else and dies with the socket.

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
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from runner.errors import NanokimiError, TemporaryError
from runner.gateway.upstream import USER_AGENT, Upstream

log = structlog.get_logger()

MAX_BODY = 32 * 1024 * 1024
MAX_BODIES = 2
MAX_CONNECTIONS = 8
REQUEST_DEADLINE = 10.0
BODY_DEADLINE = 60.0
CONNECT_DEADLINE = 10.0
SILENCE_DEADLINE = 300.0
MAX_SOCKET_PATH = 100  # the kernel's limit is 107 bytes


def new_scoped_token() -> str:
    """A bearer token that only one relay socket knows."""
    return f"nk-sandbox-{secrets.token_urlsafe(32)}"


@dataclass(frozen=True, slots=True)
class Door:
    """What one sandbox may do: ``model`` is the only one it may ask for."""

    group: str
    model: str
    token: str = field(repr=False)
    upstream: Upstream
    bodies: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_BODIES))


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


class Relay:
    """All open sockets, and one client for every provider behind them."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(SILENCE_DEADLINE, connect=CONNECT_DEADLINE, pool=30.0),
            limits=httpx.Limits(max_connections=1000, max_keepalive_connections=100),
            follow_redirects=False,
        )
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
        """Close every socket and the client."""
        for path in list(self._open):
            await self.close(path)
        await self._client.aclose()

    # -- one request ----------------------------------------------------------------------------

    async def _serve(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(door, request)
            await response(scope, receive, send)
        except (ClientDisconnect, httpx.HTTPError):
            return  # one side hung up; the other is told by an unfinished body

    async def _answer(self, door: Door, request: Request) -> Response:
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(sent.encode(), door.token.encode()):
            return _error(401, "invalid_authentication_error", "this socket needs its own token")
        if request.url.path != "/v1/chat/completions":
            return _error(404, "resource_not_found_error", "only /v1/chat/completions is here")
        if request.method != "POST":
            return _error(405, "invalid_request_error", "use POST")
        try:
            async with asyncio.timeout(BODY_DEADLINE), door.bodies:
                body = await _read_body(request)
        except TimeoutError:
            return _error(408, "invalid_request_error", "the request body did not arrive in time")
        if body is None:
            return _error(413, "invalid_request_error", f"more than {MAX_BODY} bytes")
        try:
            # Read and written anew, so that a name that stands twice means the same to everybody.
            fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            asked = msgspec.json.decode(fields.get("model", b"null"), type=str)
            body = msgspec.json.encode(fields)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            return _error(400, "invalid_request_error", f"not a chat completion request: {e}")
        if asked != door.model:
            return _error(404, "resource_not_found_error", f"this group's model is {door.model!r}")
        try:
            return await self._forward(door, body)
        except NanokimiError as e:
            status = 503 if isinstance(e, TemporaryError) else 401
            log.warning("relay.no_credential", group=door.group, code=e.code)
            return _error(status, e.code, f"{e.message}. {e.hint}".strip())
        except httpx.TimeoutException as e:
            return _error(504, "provider_timeout", f"the provider did not answer: {_name(e)}")
        except httpx.HTTPError as e:
            return _error(
                502, "provider_unavailable", f"the provider cannot be reached: {_name(e)}"
            )

    async def _forward(self, door: Door, body: bytes) -> Response:
        token = await door.upstream.token(None)
        answer = await self._send(door, body, token)
        if answer.status_code == 401:  # one forced refresh, one retry
            await answer.aclose()
            fresh = await door.upstream.token(token)
            answer = await self._send(door, body, fresh)
        headers = {
            name: answer.headers[name]
            for name in ("content-type", "retry-after")
            if name in answer.headers
        }
        return StreamingResponse(_chunks(door, answer), answer.status_code, headers)

    async def _send(self, door: Door, body: bytes, token: str) -> httpx.Response:
        request = self._client.build_request(
            "POST",
            f"{door.upstream.base_url}/chat/completions",
            content=body,
            headers={
                "user-agent": USER_AGENT,
                **door.upstream.headers,
                "authorization": f"Bearer {token}",
                "content-type": "application/json",
                "accept-encoding": "identity",
            },
        )
        return await self._client.send(request, stream=True)


async def _read_body(request: Request) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
    return b"".join(parts)


async def _chunks(door: Door, answer: httpx.Response) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(answer):
        try:
            async for chunk in answer.aiter_raw():
                yield chunk
        except httpx.HTTPError as e:
            # The headers are out. Breaking off without the end of the body is the only honest
            # answer left: the agent sees a cut stream and never a short answer.
            log.warning("relay.stream_cut", group=door.group, error=_name(e))
            raise


def _error(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "code": kind}}, status)


def _name(e: httpx.HTTPError) -> str:
    return f"{type(e).__name__} {e}".strip()


def _listen(path: Path) -> socket.socket:
    try:
        return _bind(path)
    except OSError as e:
        raise TemporaryError(
            f"the model's socket {path} cannot be made: {e.strerror}",
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
