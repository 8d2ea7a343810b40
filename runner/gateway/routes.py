"""The gateway's HTTP side: both APIs' paths, the callers' keys, bodies with a bound."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from runner import __version__
from runner.gateway import exchange
from runner.gateway.exchange import Api, Asked, read_request
from runner.gateway.failure import GatewayFailure
from runner.gateway.formats.errors import Untranslatable
from runner.gateway.formats.tokens import estimate
from runner.gateway.service import Caller, Gateway, Reply
from runner.settings.tables import GatewayKey

MAX_BODY = 32 * 1024 * 1024
BODY_DEADLINE = 60.0

_T = TypeVar("_T")
_encode = msgspec.json.Encoder().encode


def gateway_app(
    gateway: Callable[[], Gateway], keys: Callable[[], Sequence[GatewayKey]]
) -> Starlette:
    """The ASGI application for ``/v1/…`` and ``/health``; ``keys`` are asked for at each call."""

    async def chat(request: Request) -> Response:
        return await _call(gateway(), keys(), request, "openai")

    async def messages(request: Request) -> Response:
        return await _call(gateway(), keys(), request, "anthropic")

    async def count(request: Request) -> Response:
        api: Api = "anthropic"
        if _caller(keys(), request) is None:
            return failed(api, _UNKNOWN)
        try:
            asked = read_request(api, await read_body(request))
        except Untranslatable as e:
            return failed(api, e.failure)
        return _json({"input_tokens": estimate(asked.chat)})

    async def models(request: Request) -> Response:
        caller = _caller(keys(), request)
        api: Api = "anthropic" if "anthropic-version" in request.headers else "openai"
        if caller is None:
            return failed(api, _UNKNOWN)
        names = gateway().models(caller)
        data = [
            {"id": n, "object": "model", "type": "model", "display_name": n, "created": 0}
            | {"created_at": "1970-01-01T00:00:00Z", "owned_by": "nanokimi"}
            for n in names
        ]
        first, last = (names[0], names[-1]) if names else (None, None)
        page = {"object": "list", "data": data, "has_more": False}
        return _json({**page, "first_id": first, "last_id": last})

    async def health(_request: Request) -> Response:
        return _json({"status": "ok", "version": __version__})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/messages", messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", count, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
        ],
        exception_handlers={404: _not_here, 405: _not_here},
    )


_UNKNOWN = GatewayFailure(
    401, "authentication_error", "no valid key: send one of [gateway] keys as the bearer token"
)


async def _call(
    gateway: Gateway, keys: Sequence[GatewayKey], request: Request, api: Api
) -> Response:
    caller = _caller(keys, request)
    if caller is None:
        return failed(api, _UNKNOWN)
    return await answer(gateway, caller, request, api)


async def answer(gateway: Gateway, caller: Caller, request: Request, api: Api) -> Response:
    """Answer one request of a caller who is known; a client that leaves ends it."""
    try:
        asked = read_request(api, await read_body(request))
    except Untranslatable as e:
        return failed(api, e.failure)
    return await deliver(gateway, caller, asked, request)


async def deliver(gateway: Gateway, caller: Caller, asked: Asked, request: Request) -> Response:
    """Carry a request out for as long as its client is there.

    Raises:
        ClientDisconnect: it left before the answer began.
    """
    reply: Reply = await _while_there(request, gateway.answer(caller, asked))
    if isinstance(reply.body, bytes):
        return Response(reply.body, reply.status, reply.headers)
    return StreamingResponse(_closing(reply.body), reply.status, reply.headers)


async def _closing(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in body:
            yield chunk
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            await close()


async def _while_there(request: Request, work: Awaitable[_T]) -> _T:
    """Do the work unless the client leaves first.

    Raises:
        ClientDisconnect: it has left; the work was cancelled.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.ensure_future(work)
    left = asyncio.create_task(gone(), name="client gone")
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for each in (task, left):
            if not each.done():
                each.cancel()
        await asyncio.wait({task, left})


def _caller(keys: Sequence[GatewayKey], request: Request) -> Caller | None:
    given = request.headers.get("x-api-key", "")
    if not given:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    found: GatewayKey | None = None
    for key in keys:  # all of them, so that the time tells nothing
        if hmac.compare_digest(key.key.reveal().encode(), given.encode()):
            found = key
    return None if found is None or not given else Caller(scope=f"key:{found.name}", key=found)


async def read_body(request: Request) -> bytes:
    """The body, within its bounds. Raises: Untranslatable."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    text = f"the body has more than {MAX_BODY} bytes"
                    raise Untranslatable(GatewayFailure(413, "request_too_large", text))
                parts.append(part)
    except TimeoutError:
        text = f"the body did not arrive within {BODY_DEADLINE:g} s"
        raise Untranslatable(GatewayFailure(408, "invalid_request_error", text)) from None
    return b"".join(parts)


def failed(api: Api, failure: GatewayFailure) -> Response:
    """A failure in the shape of the API that was called."""
    body = exchange.error_body(api, failure)
    # What the SDKs of both APIs look at: our own refusals do not change by asking again.
    headers = {"x-should-retry": "false"}
    return Response(body, failure.status, headers, media_type="application/json")


def _json(value: object) -> Response:
    return Response(_encode(value), media_type="application/json")


async def _not_here(request: Request, _error: Exception) -> Response:
    api: Api = "anthropic" if "anthropic-version" in request.headers else "openai"
    text = f"{request.method} {request.url.path[:100]} is not offered here"
    return failed(api, GatewayFailure(404, "not_found_error", text))
