"""Sends deliveries as signed HTTP POSTs.

The body is JSON, and the signature is the HMAC-SHA256 of its bytes, in hex: the scheme that most
webhooks have. ``Idempotency-Key`` is the delivery's id
(https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import httpx

from runner import USER_AGENT
from runner.channels.channel import Delivered, Failed, Rejected, Result, RetryAfter
from runner.channels.split import split
from runner.model import Delivery

MAX_URL = 2048
MAX_ANSWER = 4 * 1024
MAX_CONNECTIONS = 64
LEAVE = 1.0
TOO_EARLY = frozenset({408, 425, 429})


class Webhook:
    """A :class:`~runner.channels.channel.Channel` whose targets are URLs.

    Args:
        secret: gives the signing key of now.
    """

    def __init__(self, secret: Callable[[], bytes]) -> None:
        self._secret = secret
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            timeout=httpx.Timeout(None),  # each try has one deadline over all of it
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=16),
            headers={"user-agent": USER_AGENT},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none are kept
        )

    async def send(self, delivery: Delivery, max_chars: int, timeout: float) -> Result:
        if why := refusal(delivery.target):
            return Rejected(why)
        body = await asyncio.to_thread(body_of, delivery.body, max_chars)
        headers = {
            "content-type": "application/json",
            "idempotency-key": delivery.id,
            "x-nanokimi-event": str(delivery.body.get("event", "")),
            "x-nanokimi-signature": signature(self._secret(), body),
        }
        try:
            async with asyncio.timeout(timeout) as deadline:
                return await self._post(delivery.target, body, headers, deadline)
        except TimeoutError:
            return Failed(f"no answer within {timeout:g} s")
        except (httpx.InvalidURL, UnicodeError) as e:  # the latter of a name that is none
            return Rejected(f"the URL cannot be used: {e}")
        except (httpx.HTTPError, OSError) as e:
            return Failed(f"{type(e).__name__}: {e}"[:300])

    async def _post(
        self, url: str, body: bytes, headers: Mapping[str, str], deadline: asyncio.Timeout
    ) -> Result:
        async with self._client.stream("POST", url, content=body, headers=headers) as answer:
            if not answer.is_success:
                told = await _beginning(answer)
                return judge(answer.status_code, answer.headers.get("retry-after", ""), told)
            # It has arrived, whatever comes now. A short answer is read for the sake of the
            # connection, which can be used again then.
            deadline.reschedule(None)
            with contextlib.suppress(TimeoutError, httpx.HTTPError, OSError):
                async with asyncio.timeout(LEAVE):
                    await _beginning(answer)
            return Delivered()

    async def aclose(self) -> None:
        await self._client.aclose()


def refusal(url: str) -> str:
    """Why nothing can be sent to this URL; empty when it can. Pure."""
    try:
        parts = urlsplit(url)
        usable = parts.port is None or parts.port > 0
    except ValueError:
        return "it is not a URL"
    if len(url) > MAX_URL:
        return f"it is longer than {MAX_URL} characters"
    if parts.scheme not in ("http", "https") or not parts.hostname or not usable:
        return "it is not an http:// or https:// URL"
    if "@" in parts.netloc:
        return "it holds a user name or a password"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "it holds characters that no URL has"
    return ""


def signature(secret: bytes, body: bytes) -> str:
    """The value of ``X-Nanokimi-Signature`` for these bytes."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"


def body_of(said: Mapping[str, Any], max_chars: int) -> bytes:
    """What is sent, as JSON: with ``parts`` when the text is longer than ``max_chars``."""
    words = said.get("text")
    if max_chars and isinstance(words, str) and len(words) > max_chars:
        said = {**said, "parts": split(words, max_chars)}
    text = json.dumps(said, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")  # half a character is none


def judge(status: int, retry_after: str, told: str) -> Result:
    """What an answer other than 2xx means. Pure but for the clock, if ``retry_after`` is a date."""
    reason = f"HTTP {status}" + (f": {told}" if told else "")
    if status in TOO_EARLY or status >= 500:
        seconds = seconds_of(retry_after, time.time())
        return Failed(reason) if seconds is None else RetryAfter(seconds, reason)
    if 300 <= status < 400:
        return Rejected(f"{reason} (redirects are not followed: send to where it points)")
    return Rejected(reason)


def seconds_of(retry_after: str, now: float) -> float | None:
    """The seconds that a ``Retry-After`` asks for (RFC 9110 §10.2.3); ``None`` if it says nothing.

    It may be a number or a date.
    """
    given = retry_after.strip()
    if given.isascii() and given.isdigit():
        return float(given[:10])
    try:
        at = parsedate_to_datetime(given)
    except ValueError:
        return None
    try:
        return max(0.0, at.timestamp() - now)
    except (OverflowError, OSError, ValueError):
        return None


async def _beginning(answer: httpx.Response) -> str:
    """The first words of an answer, on one line."""
    content = b""
    async for piece in answer.aiter_raw():  # as it came: nothing unpacks itself in our memory
        content += piece
        if len(content) >= MAX_ANSWER:
            break
    text = " ".join(content[:MAX_ANSWER].decode("utf-8", "replace").split())
    return "".join(c if c.isprintable() else "?" for c in text[:200])
