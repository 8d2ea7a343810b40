"""The OAuth endpoints of the demo provider, and the page where a person approves a login."""

from __future__ import annotations

import html
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from runner.demo.answer import fault_answer, json_answer
from runner.demo.faults import Endpoint, Faults
from runner.demo.oauth_state import CLIENT_ID, OAuthRefusal, OAuthState

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
CLIENT_HEADERS = (
    "x-msh-platform",
    "x-msh-version",
    "x-msh-device-name",
    "x-msh-device-model",
    "x-msh-os-version",
    "x-msh-device-id",
)
_PAGE = """<!doctype html><title>Demo login</title>
<h1>Demo provider</h1><p>{text}</p>
<form method="post" action="/device"><input name="user_code" value="{code}">
<button name="decision" value="approve">Approve</button>
<button name="decision" value="deny">Deny</button></form>
"""


class OAuthServer:
    """Routes of the device flow: https://www.rfc-editor.org/rfc/rfc8628 ."""

    def __init__(self, state: OAuthState, faults: Faults) -> None:
        self._state = state
        self._faults = faults

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/api/oauth/device_authorization", self._authorize, methods=["POST"]),
            Route("/api/oauth/token", self._token, methods=["POST"]),
            Route("/device", self._page, methods=["GET"]),
            Route("/device", self._decide, methods=["POST"]),
        ]

    async def _authorize(self, request: Request) -> Response:
        uri = f"{request.url.scheme}://{request.url.netloc}/device"
        return await self._answer("device", request, lambda form: self._state.authorize(uri))

    async def _token(self, request: Request) -> Response:
        return await self._answer("token", request, self._grant)

    def _grant(self, form: dict[str, str]) -> dict[str, object]:
        match form.get("grant_type"):
            case "refresh_token":
                return self._state.rotate(form.get("refresh_token", ""))
            case grant if grant == DEVICE_GRANT:
                return self._state.redeem(form.get("device_code", ""))
            case _:
                raise OAuthRefusal("unsupported_grant_type", "The grant type is not supported")

    async def _answer(
        self,
        endpoint: Endpoint,
        request: Request,
        act: Callable[[dict[str, str]], dict[str, object]],
    ) -> Response:
        fault = self._faults.take(endpoint)
        if fault is not None and fault.replaces:
            return fault_answer(fault)
        try:
            form = await _form(request)
            _check_client(request, form)
            return json_answer(act(form), fault=fault)
        except OAuthRefusal as e:
            body = {"error": e.error, "error_description": e.description}
            return json_answer(body, status=e.status, fault=fault)

    async def _page(self, request: Request) -> Response:
        return _page("Approve this login?", request.query_params.get("user_code", ""))

    async def _decide(self, request: Request) -> Response:
        form = await _form(request)
        code, approve = form.get("user_code", ""), form.get("decision") == "approve"
        known = self._state.decide(code, approve=approve)
        done = "Approved. You may close this page." if approve else "Denied."
        return _page(done if known else "No login waits under this code.", code)


def _page(text: str, code: str) -> Response:
    return HTMLResponse(_PAGE.format(text=text, code=html.escape(code, quote=True)))


async def _form(request: Request) -> dict[str, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise OAuthRefusal("invalid_request", "The body must be a form")
    try:
        fields = parse_qs((await request.body()).decode("ascii"), strict_parsing=True)
    except ValueError:
        raise OAuthRefusal("invalid_request", "The form cannot be read") from None
    if any(len(values) > 1 for values in fields.values()):
        raise OAuthRefusal("invalid_request", "A field is given twice")
    return {name: values[0] for name, values in fields.items()}


def _check_client(request: Request, form: dict[str, str]) -> None:
    for name in CLIENT_HEADERS:
        value = request.headers.get(name, "")
        if not value or not value.isascii() or not value.isprintable():
            raise OAuthRefusal("invalid_request", f"The header {name} is missing or not ASCII")
    if form.get("client_id") != CLIENT_ID:
        raise OAuthRefusal("invalid_client", "The client is not known", status=401)
