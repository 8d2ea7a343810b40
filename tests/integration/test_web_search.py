"""web_search against the demo's strict search service, and a page like DuckDuckGo's on loopback."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rig import log_in, write_config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from runner.api.serving import serving
from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.errors import NanokimiError, PermanentError, TemporaryError
from runner.host.credentials import Credentials
from runner.host.web.duckduckgo import DuckDuckGo
from runner.host.web.frame import framed_results
from runner.host.web.moonshot import Moonshot
from runner.host.web.search import Found, Searcher
from runner.settings.layout import Layout
from runner.settings.load import load_settings

KEY = "sk-search-key"
BY_LOGIN = """
[services.moonshot_search]
base_url = "{base}/search"
oauth = {{storage = "file", key = "oauth/kimi-code", host = "{host}"}}
"""
BY_KEY = """
[services.moonshot_search]
base_url = "{base}/search"
api_key = "sk-search-key"
"""


class NoEngine:
    """The engine that must not be asked."""

    async def search(self, query: str, limit: int) -> list[Found]:
        raise AssertionError("the wrong engine was asked")


class Settled:
    """An engine that answers at once, and says how it was asked."""

    def __init__(self, found: list[Found]) -> None:
        self.asked: list[tuple[str, int]] = []
        self._found = found

    async def search(self, query: str, limit: int) -> list[Found]:
        self.asked.append((query, limit))
        return self._found


@asynccontextmanager
async def moonshot(
    tmp_path: Path, provider: DemoProvider, services: str, more: str = ""
) -> AsyncIterator[Searcher]:
    layout = Layout(tmp_path / "data")
    text = services.format(base=provider.base_url, host=provider.oauth_host)
    write_config(layout, provider, more=text + more)
    log_in(layout, provider)
    settings = load_settings(layout, {})
    credentials = Credentials(layout.credentials)
    try:
        yield Searcher(lambda: settings, Moonshot(lambda: settings, credentials), NoEngine())
    finally:
        await credentials.aclose()


async def failure(searcher: Searcher, query: str = "kites") -> NanokimiError:
    with pytest.raises(NanokimiError) as failed:
        await searcher.search(query)
    return failed.value


# -- Kimi's own service -----------------------------------------------------------------------


async def test_kimis_search_answers_by_the_login(tmp_path: Path) -> None:
    async with DemoProvider() as provider, moonshot(tmp_path, provider, BY_LOGIN) as searcher:
        found = await searcher.search("  kites   and wind ")
        assert len(found) == 5
        assert found[0].title == "Page 1 about kites and wind"
        assert found[0].url == "https://example.com/1"
        assert len(await searcher.search("kites", 2)) == 2
        assert len(await searcher.search("kites", 10_000)) == 20


async def test_kimis_search_answers_by_a_key(tmp_path: Path) -> None:
    async with DemoProvider() as provider, moonshot(tmp_path, provider, BY_KEY) as searcher:
        refused = await failure(searcher)
        assert isinstance(refused, PermanentError)
        assert "401" in refused.message
        provider.add_api_key(KEY)
        assert await searcher.search("kites")


async def test_a_login_that_was_revoked_meanwhile_is_renewed_once(tmp_path: Path) -> None:
    async with DemoProvider() as provider, moonshot(tmp_path, provider, BY_LOGIN) as searcher:
        assert await searcher.search("kites")
        provider.revoke_access()
        assert await searcher.search("kites")
        assert provider.refreshes == 1
        provider.revoke_logins()
        lost = await failure(searcher)
        assert "no login" in lost.message


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault("search", status=429, headers={"retry-after": "7"}), "search_rate_limited"),
        (Fault("search", status=500), "search_failed"),
        (Fault("search", status=403), "search_not_set_up"),
        (Fault("search", status=302, headers={"location": "http://127.0.0.1/"}), "search_failed"),
        (Fault("search", body=b"<html>hello"), "search_failed"),
        (Fault("search", body=b'{"search_results": [{"title": 3}]}'), "search_failed"),
        (Fault("search", body=b"[" * 3_000_000), "search_failed"),
        (Fault("search", cut_after=1), "search_failed"),
    ],
)
async def test_whatever_the_service_does_is_a_sentence(
    tmp_path: Path, fault: Fault, code: str
) -> None:
    async with DemoProvider() as provider, moonshot(tmp_path, provider, BY_LOGIN) as searcher:
        provider.faults.add(fault)
        failed = await failure(searcher)
        assert failed.code == code
        assert failed.hint
        if code == "search_rate_limited":
            assert "7 s" in failed.hint
        assert await searcher.search("kites")


async def test_a_service_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    service = '[services.moonshot_search]\nbase_url = "http://127.0.0.1:1/search"\napi_key = "sk"\n'
    async with DemoProvider() as provider, moonshot(tmp_path, provider, service) as searcher:
        assert (await failure(searcher)).code == "search_failed"


async def test_a_key_that_cannot_be_had_does_not_say_where_it_was_looked_for(
    tmp_path: Path,
) -> None:
    service = BY_KEY.replace("sk-search-key", "file:private/search.key")
    async with DemoProvider() as provider, moonshot(tmp_path, provider, service) as searcher:
        failed = await failure(searcher)
        assert failed.code == "search_not_set_up"
        assert "private" not in failed.message + failed.hint


# -- which engine, and what it is asked -------------------------------------------------------


@pytest.mark.parametrize(
    ("services", "engine", "kimi"),
    [
        ("", "auto", False),
        (BY_KEY, "auto", True),
        (BY_KEY, "duckduckgo", False),
        (BY_KEY, "moonshot", True),
    ],
)
async def test_auto_takes_kimis_service_when_it_is_set_up(
    tmp_path: Path, services: str, engine: str, kimi: bool
) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        more = services.format(base=provider.base_url)
        more += f'\n[tools.web_search]\nengine = "{engine}"\nmax_results = 3\n'
        write_config(layout, provider, more=more)
    settings = load_settings(layout, {})
    right = Settled([Found("t" * 9_000, "https://example.com", "s" * 9_000)] * 9)
    engines = (right, NoEngine()) if kimi else (NoEngine(), right)
    found = await Searcher(lambda: settings, *engines).search("kites")
    assert right.asked == [("kites", 3)]
    assert len(found) == 3
    assert len(found[0].title) < 500
    assert len(found[0].snippet) < 2_000


@pytest.mark.parametrize("query", ["", "  \n ", "x" * 501])
async def test_an_impossible_query_reaches_no_engine(tmp_path: Path, query: str) -> None:
    async with DemoProvider() as provider, moonshot(tmp_path, provider, BY_LOGIN) as searcher:
        assert (await failure(searcher, query)).code == "bad_query"
        assert provider.requests == []


def test_results_are_framed_as_words_of_strangers() -> None:
    found = [Found("Kites\nObey", "https://example.com", "Fly them.", "2026-01-01")]
    text = framed_results("kites", found)
    assert "written by strangers" in text
    assert "1. Kites Obey\nhttps://example.com\nDate: 2026-01-01\nFly them." in text
    assert "Nothing was found" in framed_results("kites", [])


# -- DuckDuckGo -------------------------------------------------------------------------------


def _results(*rows: tuple[str, str, str]) -> str:
    """A page with results, laid out like DuckDuckGo's HTML page."""
    return "<html><body>" + "".join(
        f'<div class="links_main links_deep result__body"><h2><a href="{url}">'
        f'{html.escape(title)}</a></h2><a class="result__snippet" href="{url}">'
        f"{html.escape(text)}</a></div>"
        for title, url, text in rows
    )


@asynccontextmanager
async def duckduckgo(
    monkeypatch: pytest.MonkeyPatch, answer: Response, asked: list[dict[str, Any]] | None = None
) -> AsyncIterator[DuckDuckGo]:
    """The library, led to a server that answers this."""

    async def page(request: Request) -> Response:
        if asked is not None:
            asked.append(dict(await request.form()))
        return answer

    from ddgs.engines.duckduckgo import Duckduckgo

    async with serving(Starlette(routes=[Route("/", page, methods=["POST"])]), "127.0.0.1", 0) as u:
        monkeypatch.setattr(Duckduckgo, "search_url", f"{u}/")
        engine = DuckDuckGo(timeout=2)
        try:
            yield engine
        finally:
            engine.close()


async def test_duckduckgos_results_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _results(
        ("Kites & more", "https://kites.example/a", "All about kites."),
        ("Wind", "https://wind.example/", "Where kites live."),
        ("Trap", "javascript:alert(1)", "kites"),
    )
    asked: list[dict[str, Any]] = []
    async with duckduckgo(monkeypatch, HTMLResponse(page), asked) as engine:
        found = await engine.search("kites", 5)
    assert Found("Kites & more", "https://kites.example/a", "All about kites.") in found
    assert {f.url for f in found} == {"https://kites.example/a", "https://wind.example/"}
    assert asked[0]["q"] == "kites"


@pytest.mark.parametrize("status", [200, 202, 403, 429, 500])
async def test_duckduckgos_refusals_look_like_nothing_found(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    async with duckduckgo(monkeypatch, HTMLResponse("<p>no</p>", status_code=status)) as engine:
        assert await engine.search("kites", 5) == []


async def test_a_duckduckgo_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddgs.engines.duckduckgo import Duckduckgo

    released = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setattr(Duckduckgo, "search_url", f"http://127.0.0.1:{port}/")
        engine = DuckDuckGo(timeout=1)
        started = time.monotonic()
        with pytest.raises(TemporaryError) as failed:
            await engine.search("kites", 5)
        released.set()
        engine.close()
    assert failed.value.hint
    assert time.monotonic() - started < 8


async def test_a_duckduckgo_that_is_not_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ddgs.engines.duckduckgo import Duckduckgo

    monkeypatch.setattr(Duckduckgo, "search_url", "http://127.0.0.1:1/")
    engine = DuckDuckGo(timeout=2)
    with pytest.raises(TemporaryError) as failed:
        await engine.search("kites", 5)
    engine.close()
    assert "127.0.0.1" not in failed.value.message
