"""The provider's caching API over HTTP: ``POST``, ``GET`` and ``DELETE`` of ``/v1/caching``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx
import msgspec

from runner.gateway.caching.prefix import Prefix
from runner.gateway.failure import retry_after

TTL = 3600
"""Seconds that a cache lives after its creation and after each use."""
DEADLINE = 20.0
_PASSING_REST = 60.0
_REQUEST_REST = 3600.0
_ABSENT_REST = 86_400.0


class Status(StrEnum):
    PENDING = "pending"
    READY = "ready"
    ERROR = "error"
    INACTIVE = "inactive"


@dataclass(frozen=True, slots=True)
class Cache:
    """``expires`` is Unix seconds, ``None`` when the provider does not say."""

    id: str
    status: Status
    expires: float | None = None


class Blame(StrEnum):
    """What is not tried again for a while: the whole API, the credential, or this content."""

    ADDRESS = "address"
    CREDENTIAL = "credential"
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Rest:
    blame: Blame
    seconds: float


class CachingRefused(Exception):
    """The provider did not do it; ``rest`` says what to leave alone, and for how long."""

    def __init__(self, status: int, rest: Rest) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.rest = rest


def rest_after(status: int, headers: Mapping[str, str]) -> Rest:
    """What follows from a refused creation. A base without the API is not asked again for a day."""
    if status in (404, 405, 501):
        return Rest(Blame.ADDRESS, _ABSENT_REST)
    if status in (400, 413, 422) or 200 <= status < 300:
        return Rest(Blame.CONTENT, _REQUEST_REST)
    return Rest(Blame.CREDENTIAL, max(_PASSING_REST, retry_after(headers) or 0.0))


@dataclass(frozen=True, slots=True)
class Caller:
    """How to reach the API: ``headers`` identify us, ``token`` is the credential's."""

    client: httpx.AsyncClient
    address: str
    token: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    async def create(self, family: str, prefix: Prefix) -> Cache:
        """Raises: CachingRefused, httpx.HTTPError."""
        body = msgspec.json.encode({"model": family, **prefix.body, "ttl": TTL})
        answer = await self._ask("POST", self.address, body)
        return _read(answer)

    async def look(self, id_: str) -> Cache:
        """Raises: CachingRefused, httpx.HTTPError."""
        return _read(await self._ask("GET", f"{self.address}/{id_}"))

    async def delete(self, id_: str) -> None:
        """One that is gone already is deleted. Raises: CachingRefused, httpx.HTTPError."""
        answer = await self._ask("DELETE", f"{self.address}/{id_}")
        if answer.status_code >= 300 and answer.status_code not in (404, 410):
            raise _refused(answer)

    async def _ask(self, method: str, url: str, body: bytes | None = None) -> httpx.Response:
        headers = {**self.headers, "content-type": "application/json"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        return await self.client.request(
            method, url, content=body, headers=headers, timeout=DEADLINE
        )


def _read(answer: httpx.Response) -> Cache:
    """``id`` is all that is needed: a cache without a ``status`` is taken as ready."""
    if not 200 <= answer.status_code < 300:
        raise _refused(answer)
    try:
        found: Any = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise _refused(answer) from None
    match found:
        case {"id": str() as id_} if _is_plain(id_):
            return Cache(id_, _status(found.get("status")), _seconds(found.get("expired_at")))
    raise _refused(answer)


def _is_plain(id_: str) -> bool:
    """It becomes part of a path and of a header."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,255}", id_) is not None


def _status(value: object) -> Status:
    if value is None:
        return Status.READY
    return next((status for status in Status if status == value), Status.ERROR)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if value > 0 else None


def _refused(answer: httpx.Response) -> CachingRefused:
    return CachingRefused(answer.status_code, rest_after(answer.status_code, answer.headers))
