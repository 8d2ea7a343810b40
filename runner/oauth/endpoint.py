"""One form post to an OAuth server, and what came of it as a value."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from runner.errors import ConfigError
from runner.oauth.tokens import problems

CLIENT_ID = "17e5f671-d194-4dfb-9706-5516cb48c098"
MAX_ANSWER = 64 * 1024
DEADLINE = 20.0
MAX_RETRY_AFTER = 300.0
_ERROR_NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}")

_M = TypeVar("_M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Refused:
    """The server said no, in JSON. ``error`` is its name for why (RFC 6749 §5.2)."""

    status: int
    error: str

    @property
    def definitive(self) -> bool:
        """Whether the grant itself is dead: asking again cannot help."""
        return self.status in (401, 403) or (self.status == 400 and self.error == "invalid_grant")


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable answer: worth another try.

    ``maybe_done`` says that the server may have acted although its answer did not reach us;
    ``retry_after`` (seconds) is its wish.
    """

    why: str
    maybe_done: bool
    retry_after: float | None = None


class _ErrorAnswer(BaseModel):
    error: str = ""


def check_host(host: str) -> str:
    """The base URL of an OAuth server without a trailing slash.

    Raises:
        ConfigError: no URL, or tokens would cross a public network unencrypted.
    """
    try:
        parts = urlsplit(host)
        name = parts.hostname or ""
    except ValueError:
        name, parts = "", urlsplit("")
    if parts.scheme == "https" and name:
        return host.rstrip("/")
    if parts.scheme == "http" and _is_near(name):
        return host.rstrip("/")
    raise ConfigError(
        f"the OAuth host {host[:200]!r} is not an https:// URL",
        hint="correct KIMI_CODE_OAUTH_HOST; http:// is for this machine and private addresses",
    )


def _is_near(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_private
    except ValueError:
        return name == "localhost"


async def post_form(
    client: httpx.AsyncClient,
    url: str,
    fields: Mapping[str, str],
    headers: Mapping[str, str],
    answer: type[_M],
) -> _M | Refused | Failed:
    """Post a form and read at most 64 KiB of answer within 20 seconds; never raises for the net.

    429, 5xx, redirects and anything that is not JSON of the expected shape are a :class:`Failed`.
    """
    try:
        async with (
            asyncio.timeout(DEADLINE),
            client.stream(
                "POST", url, data=dict(fields), headers=dict(headers), follow_redirects=False
            ) as response,
        ):
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_ANSWER:
                    return Failed(f"an answer of more than {MAX_ANSWER} bytes", maybe_done=True)
            return _read(response, bytes(body), answer)
    except TimeoutError:
        return Failed(f"no answer in {DEADLINE:.0f} s", maybe_done=True)
    except httpx.HTTPError as e:
        unsent = isinstance(e, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        return Failed(f"{type(e).__name__}: {e}"[:200], maybe_done=not unsent)


def _read(response: httpx.Response, body: bytes, answer: type[_M]) -> _M | Refused | Failed:
    status = response.status_code
    if status == 429 or status >= 500:
        return Failed(
            f"HTTP {status}",
            maybe_done=status >= 500,
            retry_after=_seconds(response.headers.get("retry-after", "")),
        )
    if status == 200:
        try:
            return answer.model_validate_json(body)
        except ValidationError as e:
            return Failed(f"an answer of a wrong shape: {problems(e)}", maybe_done=True)
    try:
        name = _ErrorAnswer.model_validate_json(body or b"{}").error
    except ValidationError:
        return Failed(f"HTTP {status} without a JSON answer", maybe_done=True)
    if 400 <= status < 500:
        return Refused(status, name if _ERROR_NAME.fullmatch(name) else "unnamed error")
    return Failed(f"HTTP {status}", maybe_done=True)


def _seconds(text: str) -> float | None:
    return min(float(text), MAX_RETRY_AFTER) if text.isdecimal() and len(text) < 10 else None
