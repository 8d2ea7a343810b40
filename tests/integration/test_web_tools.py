"""web_search and web_fetch as an agent in a sandbox has them."""

from __future__ import annotations

import json
from pathlib import Path

from rig import log_in, rig, running, write_config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tool_calls import turn_running

from runner.api.serving import serving
from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout

PRIVATE = "[tools.web_fetch]\nallow_private = true\n"


async def _page(request: Request) -> Response:
    return PlainTextResponse("Kites fly in October.")


SITE = Starlette(routes=[Route("/kites", _page)])


def call(name: str, **arguments: object) -> str:
    return f"!call {name} {json.dumps(arguments)}\n!say {{last}}"


async def test_an_agent_without_a_network_reads_a_page_by_its_host(tmp_path: Path) -> None:
    async with rig(tmp_path, more=PRIVATE) as r, serving(SITE, "127.0.0.1", 0) as site:
        answer = await r.ask("a", call("web_fetch", url=f"{site}/kites"))
        assert "Kites fly in October." in answer
        assert "written by strangers" in answer


async def test_an_agent_does_not_reach_the_hosts_own_services(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        answer = await r.ask("a", call("web_fetch", url=f"{r.url}/health"))
        assert "is not an address of the public internet" in answer


async def test_an_agent_searches_by_the_groups_host(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        service = (
            f'[services.moonshot_search]\nbase_url = "{provider.base_url}/search"\n'
            f'oauth = {{key = "oauth/kimi-code", host = "{provider.oauth_host}"}}\n'
        )
        write_config(layout, provider, more=service)
        log_in(layout, provider)
        async with running(layout, provider) as r:
            answer = await r.ask("a", call("web_search", query="kites", max_results=2))
            assert "2. Page 2 about kites" in answer
            assert "https://example.com/2" in answer
            refused = await r.ask("a", call("web_search", query=""))
            assert "https://" not in refused


async def test_one_key_for_all_calls_gets_no_more_pages(tmp_path: Path) -> None:
    more = PRIVATE + "per_turn = 2\n"
    async with (
        rig(tmp_path, more=more) as r,
        serving(SITE, "127.0.0.1", 0) as site,
        turn_running(r, "a") as at,
    ):
        told = [await at.call("web_fetch", key="k", url=f"{site}/kites") for _ in range(4)]
        assert [failed for _, failed in told] == [False, False, True, True]


async def test_a_turn_searches_no_oftener_than_it_may(tmp_path: Path) -> None:
    more = PRIVATE + "per_turn = 2\n"
    async with rig(tmp_path, more=more) as r, serving(SITE, "127.0.0.1", 0) as site:
        fetch = f"!call web_fetch {json.dumps({'url': f'{site}/kites'})}\n"
        answer = await r.ask("a", fetch * 3 + "!say {last}")
        assert "Kites" not in answer
        assert "2" in answer
        assert "Kites" in await r.ask("a", fetch * 2 + "!say {last}")
