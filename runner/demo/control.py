"""``/_demo``: the demo provider's switches, for tests and people in another process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pydantic
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from runner.demo.faults import DEFAULT_MESSAGE, DEFAULT_TYPE, Endpoint, Fault
from runner.demo.records import Record

if TYPE_CHECKING:
    from runner.demo.provider import DemoProvider


class FaultBody(pydantic.BaseModel):
    """``POST /_demo/faults``: the fields of :class:`~runner.demo.faults.Fault`, and ``times``."""

    model_config = pydantic.ConfigDict(extra="forbid")

    endpoint: Endpoint = "chat"
    status: int = 0
    type: str = DEFAULT_TYPE
    message: str = DEFAULT_MESSAGE
    headers: dict[str, str] = {}
    body: str | None = None
    content_type: str = "text/html"
    delay: float = 0.0
    cut_after: int | None = None
    end_after: int | None = None
    stall_after: int | None = None
    times: int = pydantic.Field(1, ge=1, le=1_000)

    def fault(self) -> Fault:
        fields = self.model_dump(exclude={"times"})
        return Fault(**fields | {"body": None if self.body is None else self.body.encode()})


class DecisionBody(pydantic.BaseModel):
    """``POST /_demo/approve`` and ``/_demo/deny``."""

    user_code: str


class LifetimeBody(pydantic.BaseModel):
    """``POST /_demo/login``: an access token's life in seconds, when not the usual one."""

    lifetime: float | None = None


class Control:
    """Thin HTTP over the methods of a :class:`~runner.demo.provider.DemoProvider`."""

    def __init__(self, provider: DemoProvider) -> None:
        self._provider = provider

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/_demo/faults", self._faults, methods=["POST"]),
            Route("/_demo/requests", self._requests, methods=["GET"]),
            Route("/_demo/requests", self._clear, methods=["DELETE"]),
            Route("/_demo/state", self._state, methods=["GET"]),
            Route("/_demo/approve", self._approve, methods=["POST"]),
            Route("/_demo/deny", self._deny, methods=["POST"]),
            Route("/_demo/login", self._login, methods=["POST"]),
        ]

    async def _faults(self, request: Request) -> Response:
        try:
            body = FaultBody.model_validate_json(await request.body())
            self._provider.faults.add(body.fault(), times=body.times)
        except ValueError as e:
            return _refused(e)
        return JSONResponse({"waiting": self._provider.faults.waiting})

    async def _requests(self, request: Request) -> Response:
        return JSONResponse({"requests": [_as_json(r) for r in self._provider.requests]})

    async def _clear(self, request: Request) -> Response:
        self._provider.clear_requests()
        return JSONResponse({})

    async def _state(self, request: Request) -> Response:
        p = self._provider
        return JSONResponse(
            {
                "logins": p.logins,
                "refreshes": p.refreshes,
                "replayed_refresh_tokens": p.replayed_refresh_tokens,
                "waiting_codes": p.waiting_codes,
                "waiting_faults": p.faults.waiting,
                "requests": len(p.requests),
            }
        )

    async def _approve(self, request: Request) -> Response:
        return await self._decide(request, approve=True)

    async def _deny(self, request: Request) -> Response:
        return await self._decide(request, approve=False)

    async def _decide(self, request: Request, *, approve: bool) -> Response:
        try:
            code = DecisionBody.model_validate_json(await request.body()).user_code
        except ValueError as e:
            return _refused(e)
        decide = self._provider.approve if approve else self._provider.deny
        return JSONResponse({}, status_code=200 if decide(code) else 404)

    async def _login(self, request: Request) -> Response:
        try:
            body = LifetimeBody.model_validate_json(await request.body() or b"{}")
        except ValueError as e:
            return _refused(e)
        return JSONResponse(self._provider.issue_login(body.lifetime))


def _as_json(record: Record) -> dict[str, Any]:
    return {
        "number": record.number,
        "method": record.method,
        "path": record.path,
        "headers": dict(record.headers),
        "body": record.body.decode("utf-8", "replace"),
        "received_at": record.received_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "status": record.status,
    }


def _refused(error: ValueError) -> Response:
    return JSONResponse({"error": str(error)}, status_code=422)
