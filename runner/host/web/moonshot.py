"""Kimi Code's search service, which kimi-cli calls SearchWeb.

``POST base_url`` with ``text_query``, ``limit`` and two switches; the answer holds
``search_results``. Read in the source of kimi-cli (``tools/web/search.py``). One difference: pages
are never asked for whole (``enable_page_crawling``), since web_fetch reads them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import httpx
import structlog
from pydantic import BaseModel, ValidationError

from runner import USER_AGENT
from runner.errors import ConfigError, LoginRequiredError, PermanentError, TemporaryError
from runner.host.credentials import Credentials
from runner.host.web.search import Found
from runner.settings.schema import Settings
from runner.settings.tables import Service

log = structlog.get_logger()

TIMEOUT = 25.0
MAX_ANSWER = 2 << 20
_SERVER_SECONDS = 20


class _Result(BaseModel):
    title: str
    url: str
    snippet: str = ""
    date: str = ""


class _Answer(BaseModel):
    search_results: list[_Result]


class Moonshot:
    """The engine; ``settings`` are those of now."""

    def __init__(self, settings: Callable[[], Settings], credentials: Credentials) -> None:
        self._settings = settings
        self._credentials = credentials

    async def search(self, query: str, limit: int) -> list[Found]:
        """See :class:`~runner.host.web.search.Engine`.

        Raises:
            ConfigError: the service has no table, URL or key.
            PermanentError: it refuses us.
            TemporaryError: it does not answer, or says not now.
        """
        service = self._settings().services.moonshot_search
        if service is None or not service.base_url:
            raise ConfigError(
                "[services.moonshot_search] has no base_url", hint="set it in config.toml"
            )
        token = await self._token(service, rejected=None)
        status, headers, body = await _post(service, token, query, limit)
        if status == httpx.codes.UNAUTHORIZED and service.oauth is not None:
            token = await self._token(service, rejected=token)
            status, headers, body = await _post(service, token, query, limit)
        if status != httpx.codes.OK:
            raise _refusal(status, headers)
        try:
            results = _Answer.model_validate_json(body).search_results
        except ValidationError:
            raise TemporaryError(
                "the search service gave an answer that is no list of results",
                hint="try again later",
                code="search_failed",
            ) from None
        return [Found(r.title, r.url, r.snippet, r.date) for r in results]

    async def _token(self, service: Service, *, rejected: str | None) -> str:
        if service.oauth is not None:
            try:
                return await self._credentials.login_token(service.oauth, rejected=rejected)
            except LoginRequiredError as e:
                raise PermanentError(
                    "the web search has no login", hint=e.hint, code="search_not_set_up"
                ) from None
        key = service.api_key.reveal()
        if not key:
            raise ConfigError(
                "[services.moonshot_search] has neither oauth nor api_key",
                hint="set one of them in config.toml",
            )
        return key


async def _post(
    service: Service, token: str, query: str, limit: int
) -> tuple[int, httpx.Headers, bytes]:
    """One request; the body is read up to a bound."""
    asked: dict[str, Any] = {
        "text_query": query,
        "limit": limit,
        "enable_page_crawling": False,
        "timeout_seconds": _SERVER_SECONDS,
    }
    headers = {
        "User-Agent": USER_AGENT,
        **service.custom_headers,
        "Authorization": f"Bearer {token}",
        "X-Msh-Tool-Call-Id": f"web_search_{secrets.token_hex(8)}",
    }
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False) as client,
            client.stream("POST", service.base_url, json=asked, headers=headers) as response,
        ):
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MAX_ANSWER:
                    raise TemporaryError(
                        "the search service answers without end",
                        hint="try again later",
                        code="search_failed",
                    )
            return response.status_code, response.headers, bytes(body)
    except (httpx.HTTPError, TimeoutError) as e:
        log.warning("search.unreachable", engine="moonshot", error=type(e).__name__)
        raise TemporaryError(
            "the search service cannot be reached", hint="try again later", code="search_failed"
        ) from None


def _refusal(status: int, headers: httpx.Headers) -> PermanentError | TemporaryError:
    log.warning("search.refused", engine="moonshot", status=status)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        after = headers.get("retry-after", "")
        seconds = float(after) if after.isdecimal() and len(after) < 7 else None
        return TemporaryError(
            "the search service has had too many requests",
            hint=f"try again in {after} s" if seconds else "try again later",
            code="search_rate_limited",
            retry_after=seconds,
        )
    if status in (401, 402, 403):
        return PermanentError(
            f"the search service does not accept our credential ({status})",
            hint="the operator has to look at the login or key of [services.moonshot_search]",
            code="search_not_set_up",
        )
    return TemporaryError(
        f"the search service failed ({status})", hint="try again later", code="search_failed"
    )
