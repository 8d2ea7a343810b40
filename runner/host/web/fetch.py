"""One page of the public web as text for a model.

Bounded in every direction: addresses, redirects, bytes (as unpacked), time, fetches at once, and
characters handed out. No cookies, no credentials, no referrer; our own user agent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message

import httpx

from runner import USER_AGENT
from runner.errors import NanokimiError, PermanentError, TemporaryError
from runner.host.web.body import ACCEPTED, read_body
from runner.host.web.connect import CheckedTransport
from runner.host.web.places import Places
from runner.host.web.reading import MAX_CHARS, Read, decode, read_html
from runner.settings.tables import Fetch

MAX_REDIRECTS = 5
MAX_URL = 4096
MAX_PORT = 65_535
PAGE_CHARS = 20_000
_AT_ONCE = 8
_AT_ONCE_EACH = 3
_READERS = 2
_READERS_EACH = 1
_REDIRECTS = (301, 302, 303, 307, 308)
_HTML = ("text/html", "application/xhtml+xml")
_PLAIN = ("application/json", "application/xml", "application/javascript", "application/yaml")
_SAFE = "only public pages can be fetched, by http:// or https://"


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a page's text: ``total`` characters there are, from ``offset`` on these.

    ``url`` is where redirects ended.
    """

    url: str
    title: str
    media_type: str
    text: str
    offset: int
    total: int

    @property
    def next_offset(self) -> int | None:
        """Where to read on; ``None`` at the end."""
        end = self.offset + len(self.text)
        return end if end < self.total else None


@dataclass(frozen=True, slots=True)
class _Answer:
    url: httpx.URL
    media_type: str
    charset: str
    body: bytes


class Fetcher:
    """Fetches pages for all groups.

    Args:
        settings: ``[tools.web_fetch]`` as it is now.
    """

    def __init__(self, settings: Callable[[], Fetch]) -> None:
        self._settings = settings
        self._fetches = Places(_AT_ONCE, _AT_ONCE_EACH)
        self._readers = Places(_READERS, _READERS_EACH)

    async def fetch(self, url: str, offset: int = 0, *, group: str = "") -> Page:
        """At most 20,000 characters of the page's text, from ``offset`` on, for ``group``.

        Raises:
            PermanentError: the URL may not be fetched, or is no text.
            TemporaryError: the page did not come, or not in time.
        """
        settings = self._settings()
        target = check_url(url)
        try:
            async with asyncio.timeout(settings.timeout), self._fetches.taken(group):
                answer = await self._follow(target, settings)
                read = await self._read(answer, group)
        except TimeoutError:
            raise TemporaryError(
                f"{target.host} did not give the page within {settings.timeout:g} s",
                hint="try again later, or another page",
                code="page_timeout",
            ) from None
        offset = max(0, min(offset, len(read.text)))
        return Page(
            url=str(answer.url),
            title=read.title,
            media_type=answer.media_type,
            text=read.text[offset : offset + PAGE_CHARS],
            offset=offset,
            total=len(read.text),
        )

    async def _follow(self, url: httpx.URL, settings: Fetch) -> _Answer:
        """Each redirect is a new request, checked like the first."""
        for _ in range(MAX_REDIRECTS + 1):
            found = await _get(url, settings)
            if isinstance(found, _Answer):
                return found
            url = found
        raise PermanentError(
            f"the page leads on through more than {MAX_REDIRECTS} redirects",
            hint="try another page",
            code="too_many_redirects",
        )

    async def _read(self, answer: _Answer, group: str) -> Read:
        if answer.media_type in _HTML:
            async with self._readers.taken(group):
                return await read_html(answer.body, str(answer.url), answer.charset)
        text = await asyncio.to_thread(decode, answer.body, answer.charset)
        return Read("", text[:MAX_CHARS])


def check_url(url: str) -> httpx.URL:
    """What can be said of a URL before anybody is asked; the fragment is dropped.

    Raises:
        PermanentError: ``bad_url``.
    """
    try:
        parsed = httpx.URL(url.strip()) if len(url) <= MAX_URL else None
    except (httpx.InvalidURL, UnicodeError):
        parsed = None
    if (
        parsed is None
        or parsed.scheme not in ("http", "https")
        or not _has_name(parsed)
        or b"%" in parsed.raw_host  # a character that no name has, or a network interface
        or (parsed.port or 0) > MAX_PORT
    ):
        raise PermanentError("this is no URL of a web page", hint=_SAFE, code="bad_url")
    if parsed.userinfo:
        raise PermanentError(
            "the URL holds a user name or password",
            hint="only pages without a login can be fetched",
            code="bad_url",
        )
    return parsed.copy_with(fragment=None)


def _has_name(url: httpx.URL) -> bool:
    try:
        return bool(url.host)
    except UnicodeError:  # it begins with xn--, and nothing can be made of the rest
        return False


async def _get(url: httpx.URL, settings: Fetch) -> _Answer | httpx.URL:
    """The page, or where it has gone."""
    request = httpx.Request(
        "GET",
        url,
        headers={
            "User-Agent": USER_AGENT,
            "Accept": "text/html, text/*;q=0.9, application/json;q=0.9, */*;q=0.1",
            "Accept-Encoding": ACCEPTED,
            "Connection": "close",
        },
        extensions={"timeout": httpx.Timeout(settings.timeout).as_dict()},
    )
    transport = CheckedTransport(allow_private=settings.allow_private)
    try:
        response = await transport.handle_async_request(request)
        try:
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return _next(url, response.headers["location"])
            if response.status_code != 200:
                raise _refused(url, response.status_code)
            media_type, charset = _content_type(response.headers.get("content-type", ""))
            if not _readable(media_type):
                raise PermanentError(
                    f"the page is {media_type[:80]}, which is not text",
                    hint="only HTML, text, JSON and XML can be read",
                    code="not_text",
                )
            body = await read_body(response, settings.max_size)
            return _Answer(url, media_type, charset, body)
        finally:
            await response.aclose()
    except (httpx.HTTPError, ssl.SSLError) as e:
        raise TemporaryError(
            f"{url.host} could not be reached: {type(e).__name__}",
            hint="check how the address is written, or try again later",
            code="page_unreachable",
        ) from None
    finally:
        await transport.aclose()


def _next(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return check_url(str(url.join(location[:MAX_URL])))
    except (httpx.InvalidURL, UnicodeError):
        raise PermanentError(
            f"{url.host} redirects to something that is no URL",
            hint="try another page",
            code="bad_url",
        ) from None


def _refused(url: httpx.URL, status: int) -> NanokimiError:
    try:
        phrase = httpx.codes(status).name.replace("_", " ").lower()
    except ValueError:
        phrase = "an unknown status"
    kind = TemporaryError if status == httpx.codes.TOO_MANY_REQUESTS or status >= 500 else None
    return (kind or PermanentError)(
        f"{url.host} answered {status}, {phrase}",
        hint="try another page" if kind is None else "try again later",
        code="page_refused",
    )


def _content_type(header: str) -> tuple[str, str]:
    """Media type and charset, both in lower case; without a header it is taken for text."""
    message = Message()
    message["content-type"] = header or "text/plain"
    charset = message.get_content_charset("") or ""
    return message.get_content_type(), charset


def _readable(media_type: str) -> bool:
    return (
        media_type.startswith("text/")
        or media_type in (*_HTML, *_PLAIN)
        or media_type.endswith(("+json", "+xml"))
    )
