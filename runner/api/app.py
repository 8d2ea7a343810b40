"""The ASGI application: routes, errors in one shape, the bearer token, the limits."""

from __future__ import annotations

import hmac
from typing import Annotated, Any
from urllib.parse import unquote

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner import __version__
from runner.api import deliveries, files, members, tasks, turns, usage
from runner.api.bodies import ErrorBody, ErrorOut, MessageIn, Readiness
from runner.api.metrics import Metrics
from runner.api.routes import HostIn, router
from runner.api.sentences import sentence
from runner.api.uploads import FORM, Uploads, body_limit
from runner.errors import (
    BusyError,
    ConflictError,
    NanokimiError,
    NotFoundError,
    PermanentError,
    TemporaryError,
)
from runner.host.app import Host

log = structlog.get_logger()

_STATUS = {
    "store_damaged": 503,
    "store_forbidden": 503,
    "store_login_refused": 503,
    "store_missing": 503,
    "host_stopping": 503,
    "message_too_long": 413,
    "unauthorized": 401,
    "body_too_large": 413,
    "attachment_too_large": 413,
    "too_many_attachments": 413,
    "upload_timeout": 408,
    "group_deleting": 409,
    "group_not_allowed": 403,
    "sender_blocked": 403,
}


_bearer = HTTPBearer(auto_error=False, description="data/credentials/api-token")


def create_app(host: Host, token: str) -> FastAPI:
    """The API of a running host; every call below ``/api`` needs ``token`` as its bearer."""

    async def authorised(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise PermanentError(
                "no valid bearer token",
                hint="send Authorization: Bearer with the content of data/credentials/api-token",
                code="unauthorized",
            )

    app = FastAPI(
        title="nanokimi",
        version=__version__,
        strict_content_type=False,  # the bearer token is the guard against other sites' forms
        description="Every chat group has its own AI agent. Send messages, stream the answers.",
    )
    app.state.host = host
    app.state.uploads = Uploads()
    app.include_router(router, dependencies=[Depends(authorised)])
    app.include_router(turns.router, dependencies=[Depends(authorised)])
    app.include_router(members.router, dependencies=[Depends(authorised)])
    app.include_router(files.router, dependencies=[Depends(authorised)])
    app.include_router(deliveries.router, dependencies=[Depends(authorised)])
    app.include_router(tasks.router, dependencies=[Depends(authorised)])
    app.include_router(usage.router, dependencies=[Depends(authorised)])
    app.add_api_route("/health", health, tags=["state"], summary="The process lives")
    app.add_api_route(
        "/metrics",
        Metrics(host).endpoint,
        tags=["state"],
        summary="For Prometheus",
        response_class=PlainTextResponse,
    )
    app.add_api_route("/ready", ready, tags=["state"], summary="It can answer messages")
    app.add_exception_handler(NanokimiError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    app.add_middleware(_Limits)
    return app


async def health() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "ok", "version": __version__}


async def ready(host: HostIn) -> JSONResponse:
    """200 when store, sandbox engine and login are usable, else 503 with what is wrong."""
    report = Readiness(ready=True, checks=await host.readiness())
    report.ready = all(v == "ok" for v in report.checks.values())
    return JSONResponse(report.model_dump(), 200 if report.ready else 503)


class _Limits:
    """Bounds the body, and keeps an encoded slash inside its path segment.

    Servers decode a path before routing, which would turn the id ``a%2Fb`` into two segments; it
    travels as NUL instead, which no id may hold.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        if b"%00" in raw:
            await _json(422, "bad_group_id", "a NUL in the path")(scope, receive, send)
            return
        if b"%2f" in raw.lower():
            kept = raw.replace(b"%2F", b"%00").replace(b"%2f", b"%00")
            scope = {**scope, "path": unquote(kept.decode("latin-1"))}
        left = body_limit(scope, scope["app"].state.host.settings.tools.send_file.max_size)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > left:
            await _too_large()(scope, receive, send)
            return

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413)
            return message

        await self._app(scope, counted, send)


async def _on_error(_request: Request, e: Exception) -> JSONResponse:
    assert isinstance(e, NanokimiError)
    headers = {}
    if isinstance(e, TemporaryError) and e.retry_after is not None:
        headers["retry-after"] = str(max(1, round(e.retry_after)))
    if e.code == "unauthorized":
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(ErrorOut.of(e).model_dump(), status_of(e), headers)


def status_of(e: NanokimiError) -> int:
    """The HTTP status of one of our errors."""
    if e.code in _STATUS:
        return _STATUS[e.code]
    match e:
        case NotFoundError():
            return 404
        case ConflictError():
            return 409
        case BusyError():
            return 429
        case TemporaryError():
            return 503
        case _:
            return 422


async def _on_invalid(request: Request, e: Exception) -> JSONResponse:
    assert isinstance(e, RequestValidationError)
    kind = request.headers.get("content-type", "application/json")
    if "json" not in kind and not kind.lower().startswith(FORM):
        hint = "send Content-Type: application/json"
        return _json(415, "not_json", f"the body is {kind[:100]}", hint)
    found: list[dict[str, Any]] = list(e.errors())
    if any(f["type"] == "json_invalid" for f in found):
        return _bad_json()
    if found[0]["type"] == "form":
        return _json(422, "invalid_form", found[0]["msg"], "see /docs for the parts it takes")
    body = _body_of(request)
    told = "; ".join(sentence(f, body) for f in found[:10])
    return _json(422, "invalid_request", told[:2000], "see /docs for what this call takes")


def _body_of(request: Request) -> type[BaseModel]:
    """What the call takes; messages are read by :mod:`runner.api.uploads` instead of FastAPI."""
    field = getattr(request.scope.get("route"), "body_field", None)
    taken = getattr(getattr(field, "field_info", None), "annotation", None)
    return taken if isinstance(taken, type) and issubclass(taken, BaseModel) else MessageIn


async def _on_http(_request: Request, e: Exception) -> JSONResponse:
    assert isinstance(e, HTTPException)
    if e.status_code == 413:
        return _too_large()
    if e.status_code == 400:  # a body that is not even text
        return _bad_json()
    hint = "see /docs for the calls there are" if e.status_code in (404, 405) else ""
    return _json(e.status_code, "http_error", str(e.detail), hint)


async def _on_bug(request: Request, e: Exception) -> JSONResponse:
    log.error("api.bug", method=request.method, path=request.url.path[:200], exc_info=e)
    return _json(500, "internal", f"an internal error ({type(e).__name__})", "see the log")


def _bad_json() -> JSONResponse:
    return _json(400, "bad_json", "the body is not JSON", "send a JSON object")


def _too_large() -> JSONResponse:
    return _json(
        413,
        "body_too_large",
        "the body has more bytes than this call takes: 1 MiB, and files as they are allowed",
        "send it in parts, and files as parts of a form",
    )


def _json(status: int, code: str, message: str, hint: str = "") -> JSONResponse:
    body = ErrorOut(error=ErrorBody(code=code, message=message, hint=hint))
    return JSONResponse(body.model_dump(), status)
