"""MCP on the groups' sockets: bounded, and cancelled with the connection it came by."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from runner.host.tools.desk import ToolDesk

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

PATH = "/mcp"
MAX_BODY = 512 * 1024
BODY_DEADLINE = 10.0


class ToolServer:
    """:meth:`run` owns what requests need; until it is there they wait."""

    def __init__(self, desk: ToolDesk) -> None:
        self._desk = desk
        self._manager: asyncio.Future[StreamableHTTPSessionManager] | None = None

    async def run(self) -> None:
        """Serve until cancelled. The SDK is imported beside the host's start, not before it."""
        manager = await asyncio.to_thread(self._make)
        async with manager.run():
            self._ready().set_result(manager)
            await asyncio.Event().wait()

    def _make(self) -> StreamableHTTPSessionManager:
        from runner.host.tools.protocol import make_manager

        return make_manager(self._desk, MAX_BODY)

    def _ready(self) -> asyncio.Future[StreamableHTTPSessionManager]:
        if self._manager is None:
            self._manager = asyncio.get_running_loop().create_future()
        return self._manager

    async def serve(self, group: str, scope: Scope, receive: Receive, send: Send) -> None:
        """One request that came by the socket of ``group``, its token checked already.

        When the sandbox hangs up, the call that it made is cancelled.
        """
        request = Request(scope, receive)
        if request.method != "POST":  # we begin no conversation, so there is no stream to GET
            await Response("use POST", 405, {"allow": "POST"})(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_DEADLINE):
                body = await _read(request)
        except TimeoutError:
            await Response("the body did not arrive in time", 408)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        if body is None:
            text = f"the body has more than {MAX_BODY} bytes"
            await Response(text, 413, {"connection": "close"})(scope, receive, send)
            return
        manager = await asyncio.shield(self._ready())
        from runner.host.tools.protocol import GROUP

        inner = {**scope, GROUP: group}
        await _until_gone(manager, inner, body, receive, send)


async def _read(request: Request) -> bytes | None:
    """The body; ``None`` when it is too long."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
    return b"".join(parts)


async def _until_gone(
    manager: StreamableHTTPSessionManager, scope: Scope, body: bytes, receive: Receive, send: Send
) -> None:
    answered = asyncio.Event()
    unread = [body]

    async def replay() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.Event().wait()  # the end is ours to see
        raise AssertionError

    async def tell(message: Message) -> None:
        await send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    serving = asyncio.create_task(manager.handle_request(scope, replay, tell), name="tool request")
    gone = asyncio.create_task(_gone(receive), name="tool caller")
    try:
        await asyncio.wait({serving, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answered.is_set() or serving.done():
            await serving
    finally:
        for task in (serving, gone):
            task.cancel()
        await asyncio.wait({serving, gone})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
