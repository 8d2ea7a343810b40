"""Explicit context caching, by the whole gateway against the strict provider."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from runner.api.serving import serving
from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.demo.records import Record
from runner.gateway.routes import gateway_app
from runner.host.credentials import Credentials
from runner.host.models import Models
from runner.settings.layout import Layout
from runner.settings.load import load_settings
from runner.store import Store
from runner.store.ledger import Ledger

CONFIG = """
default_model = "k2"

[gateway]
keys = [{{key = "key-a", name = "a"}}, {{key = "key-b", name = "b"}}]
cache = "{cache}"
cache_hosts = ["{host}"]
max_retries = 0

[models.k2]
provider = "open"
model = "kimi-k2.6"

[providers.open]
type = "kimi"
base_url = "{base}"
api_key = "sk-one"
"""
SYSTEM = "You help a team of gardeners. " * 40
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "water",
            "description": "water a plant",
            "parameters": {"type": "object", "properties": {"plant": {"type": "string"}}},
        },
    }
]
USE = "x-msh-context-cache"
RESET = "x-msh-context-cache-reset-ttl"


@dataclass
class Gate:
    provider: DemoProvider
    models: Models
    url: str
    store: Store
    _client: httpx.AsyncClient = field(repr=False)

    async def ask(
        self, text: str = "!say hi", *, system: str = SYSTEM, key: str = "key-a", **more: Any
    ) -> httpx.Response:
        """One call, and everything done that it has begun."""
        answer = await self.post(text, system=system, key=key, **more)
        await self.models.caching.settled()
        return answer

    async def post(
        self, text: str = "!say hi", *, system: str = SYSTEM, key: str = "key-a", **more: Any
    ) -> httpx.Response:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        body = {"model": "k2", "messages": messages if system else messages[1:], **more}
        return await self._client.post(
            f"{self.url}/v1/chat/completions", json=body, headers={"x-api-key": key}
        )


def of_caching(provider: DemoProvider, method: str) -> list[Record]:
    return [r for r in provider.requests if "/caching" in r.path and r.method == method]


def used(provider: DemoProvider) -> list[str | None]:
    """The cache that each chat call named."""
    return [r.headers.get(USE) for r in provider.chats()]


def configured(
    root: Path, provider: DemoProvider, cache: str = "explicit", host: str = ""
) -> Layout:
    layout = Layout(root / "data")
    layout.root.mkdir(parents=True, exist_ok=True)
    provider.add_api_key("sk-one")
    base = provider.open_platform_url
    host = host or base.removeprefix("http://").removesuffix("/v1")
    layout.config.write_text(CONFIG.format(cache=cache, base=base, host=host))
    return layout


@asynccontextmanager
async def gateway(layout: Layout, provider: DemoProvider) -> AsyncIterator[Gate]:
    settings = load_settings(layout, {})
    credentials = Credentials(layout.credentials)
    store = await Store.open(layout.database)
    try:
        models = Models(layout, settings, store, credentials)
        app = gateway_app(lambda: models.gateway, lambda: settings.gateway.keys)
        async with (
            models.running(),
            serving(app, "127.0.0.1", 0) as url,
            httpx.AsyncClient(timeout=30) as client,
        ):
            yield Gate(provider, models, url, store, client)
    finally:
        await credentials.aclose()
        await store.close()


@pytest.fixture
async def provider() -> AsyncIterator[DemoProvider]:
    async with DemoProvider() as made:
        yield made


@pytest.fixture
async def gate(tmp_path: Path, provider: DemoProvider) -> AsyncIterator[Gate]:
    async with gateway(configured(tmp_path, provider), provider) as made:
        yield made


# -- the way it goes -------------------------------------------------------------------------------


async def test_the_first_call_creates_a_cache_and_later_calls_name_and_renew_it(gate: Gate) -> None:
    await gate.ask(tools=TOOLS)
    (created,) = of_caching(gate.provider, "POST")
    assert created.path == "/v1/caching"
    assert created.headers["authorization"] == "Bearer sk-one"
    body = created.json
    assert (body["model"], body["ttl"]) == ("kimi-k2.6", 3600)
    assert body["messages"] == [{"role": "system", "content": SYSTEM}]
    (cache,) = gate.provider.caches.live()
    answers = [await gate.ask(text, tools=TOOLS) for text in ("!say one", "!say two")]
    assert [a.status_code for a in answers] == [200, 200]
    assert used(gate.provider) == [None, cache.id, cache.id]
    for record in gate.provider.chats()[1:]:
        assert record.headers[RESET] == "3600"
        assert record.json["messages"][0] == body["messages"][0]
        assert record.json["tools"] == body["tools"]
    assert answers[-1].json()["usage"]["cached_tokens"] >= cache.tokens > 0
    assert len(of_caching(gate.provider, "POST")) == 1


async def test_streams_and_the_other_api_use_the_same_cache(gate: Gate) -> None:
    await gate.ask()
    streamed = await gate.ask(stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    async with httpx.AsyncClient() as client:
        answer = await client.post(
            f"{gate.url}/v1/messages",
            headers={"x-api-key": "key-a"},
            json={
                "model": "k2",
                "max_tokens": 100,
                "system": SYSTEM,
                "messages": [{"role": "user", "content": "!say hi"}],
            },
        )
    await gate.models.caching.settled()
    assert answer.json()["usage"]["cache_read_input_tokens"] > 0
    first, *others = used(gate.provider)
    assert first is None
    assert set(others) == {c.id for c in gate.provider.caches.live()}


async def test_parallel_first_calls_create_one_cache(gate: Gate) -> None:
    answers = await asyncio.gather(*(gate.post(f"!say {n}") for n in range(12)))
    await gate.models.caching.settled()
    assert {a.status_code for a in answers} == {200}
    assert len(of_caching(gate.provider, "POST")) == 1


async def test_groups_with_the_same_beginning_share_a_cache(gate: Gate) -> None:
    await gate.ask(key="key-a")
    await gate.ask(key="key-b")
    assert len(of_caching(gate.provider, "POST")) == 1
    assert used(gate.provider)[1] is not None


async def test_the_body_is_the_same_with_and_without_a_cache(gate: Gate) -> None:
    await gate.ask("!say same", tools=TOOLS)
    await gate.ask("!say same", tools=TOOLS)
    assert len({r.body for r in gate.provider.chats()}) == 1


@pytest.mark.parametrize("change", [{"system": "Now about beekeepers."}, {"tools": TOOLS}])
async def test_changed_content_deletes_the_old_cache_and_creates_another(
    gate: Gate, change: dict[str, Any]
) -> None:
    await gate.ask(prompt_cache_key="talk")
    (old,) = gate.provider.caches.live()
    await gate.ask(prompt_cache_key="talk", **change)
    (new,) = gate.provider.caches.live()
    assert new.id != old.id
    assert [r.path for r in of_caching(gate.provider, "DELETE")] == [f"/v1/caching/{old.id}"]
    await gate.ask(prompt_cache_key="talk", **change)
    assert used(gate.provider) == [None, None, new.id]


async def test_a_cache_that_another_conversation_needs_is_kept(gate: Gate) -> None:
    await gate.ask(prompt_cache_key="one")
    await gate.ask(prompt_cache_key="two")
    (shared,) = gate.provider.caches.live()
    await gate.ask(prompt_cache_key="one", system="Something else.")
    assert shared.id in {c.id for c in gate.provider.caches.live()}
    await gate.ask(prompt_cache_key="two", system="Something else.")
    assert shared.id not in {c.id for c in gate.provider.caches.live()}


async def test_a_call_without_system_text_uses_no_cache(gate: Gate) -> None:
    await gate.ask(system="")
    await gate.ask(system="", tools=TOOLS)
    assert used(gate.provider) == [None, None]
    assert of_caching(gate.provider, "POST") == []


async def test_a_pending_cache_is_used_when_it_is_ready(gate: Gate) -> None:
    gate.provider.caches.first_status = "pending"
    gate.provider.caches.looks = 2
    await gate.post()
    await gate.provider.wait_for(lambda rs: any(r.path.endswith("/caching") for r in rs))
    await gate.post()
    assert used(gate.provider) == [None, None]
    await gate.ask()
    await gate.ask()
    (cache,) = gate.provider.caches.live()
    assert cache.status == "ready"
    assert used(gate.provider)[-1] == cache.id
    assert len(of_caching(gate.provider, "GET")) == 2


async def test_the_four_events_are_in_the_debug_log(gate: Gate) -> None:
    with capture_logs() as logs:
        await gate.ask()
        await gate.ask()
    (cache,) = gate.provider.caches.live()
    events = [e for e in logs if e["event"].startswith("cache.")]
    assert {e["log_level"] for e in events} == {"debug"}
    (created,) = [e for e in events if e["event"] == "cache.created"]
    (prepared,) = [e for e in events if e["event"] == "cache.request_prepared"]
    for event in (created, prepared):
        assert event["cache"] == cache.id
        assert event["conversation"]
    headers = {e["header"]: e["value"] for e in events if e["event"] == "cache.header_set"}
    assert headers == {"X-Msh-Context-Cache": cache.id, "X-Msh-Context-Cache-Reset-TTL": "3600"}


# -- where it is not offered -----------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["auto", "off"])
async def test_nothing_is_sent_unless_it_is_explicit(
    tmp_path: Path, provider: DemoProvider, cache: str
) -> None:
    async with gateway(configured(tmp_path, provider, cache), provider) as gate:
        for _ in range(2):
            assert (await gate.ask()).status_code == 200
    assert used(provider) == [None, None]
    assert {r.path for r in provider.requests} == {"/v1/chat/completions"}


async def test_in_auto_the_prefix_is_stable_and_cached_tokens_are_booked(
    tmp_path: Path, provider: DemoProvider
) -> None:
    more: dict[str, Any] = {"system": SYSTEM * 2, "prompt_cache_key": "s", "tools": TOOLS}
    async with gateway(configured(tmp_path, provider, "auto"), provider) as gate:
        await gate.ask("!say one", **more)
        answer = await gate.ask("!say two", **more)
        cached = answer.json()["usage"]["cached_tokens"]
        assert cached > 0
        await gate.models.books.flush()
        calls, _ = await Ledger(gate.store).booked_after(0, 0)
    assert [call.tokens.cached for call in calls] == [0, cached]
    first, second = (r.body for r in provider.chats())
    assert first.partition(b"!say")[0] == second.partition(b"!say")[0]


async def test_a_host_that_is_not_listed_is_never_probed(
    tmp_path: Path, provider: DemoProvider
) -> None:
    layout = configured(tmp_path, provider, host="api.moonshot.cn")
    async with gateway(layout, provider) as gate:
        await gate.ask()
    assert of_caching(provider, "POST") == []


async def test_a_base_without_caching_is_probed_once(tmp_path: Path) -> None:
    async with (
        DemoProvider(caching=False) as provider,
        gateway(configured(tmp_path, provider), provider) as gate,
    ):
        for n in range(3):
            assert (await gate.ask(system=f"{SYSTEM} {n}")).status_code == 200
        assert [r.status for r in of_caching(provider, "POST")] == [404]
        assert used(provider) == [None, None, None]


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("caching", status=500),
        Fault("caching", status=429, type="rate_limit_reached_error"),
        Fault("caching", status=401, type="invalid_authentication_error"),
        Fault("caching", status=400, type="invalid_request_error"),
        Fault("caching", body=b"<html>"),
        Fault("caching", body=b'{"id": "../../etc"}', content_type="application/json"),
        Fault("caching", cut_after=0),
    ],
)
async def test_a_creation_that_fails_never_fails_a_call_and_is_not_repeated_at_once(
    gate: Gate, fault: Fault
) -> None:
    gate.provider.faults.add(fault)
    for _ in range(3):
        answer = await gate.ask()
        assert answer.json()["choices"][0]["message"]["content"] == "hi"
    assert used(gate.provider) == [None, None, None]
    assert len(of_caching(gate.provider, "POST")) == 1


async def test_a_cache_that_ends_in_error_is_deleted_and_not_used(gate: Gate) -> None:
    gate.provider.caches.first_status = "error"
    await gate.ask()
    await gate.ask()
    assert gate.provider.caches.live() == []
    assert used(gate.provider) == [None, None]
    assert len(of_caching(gate.provider, "POST")) == 1


async def test_an_id_that_is_gone_costs_one_try_more_and_is_replaced(gate: Gate) -> None:
    await gate.ask()
    await gate.ask()
    (old,) = gate.provider.caches.live()
    gate.provider.caches.lose_all()
    answer = await gate.ask()
    assert answer.status_code == 200
    assert answer.headers["x-nanokimi-attempts"] == "1"
    assert used(gate.provider) == [None, old.id, old.id, None]
    await gate.ask()
    await gate.ask()
    (new,) = gate.provider.caches.live()
    assert used(gate.provider)[-1] == new.id


async def test_a_cache_that_never_hits_is_not_made_again_and_again(gate: Gate) -> None:
    for _ in range(4):
        assert (await gate.ask()).status_code == 200
        gate.provider.caches.lose_all()
    assert len(of_caching(gate.provider, "POST")) == 1


async def test_an_error_that_is_not_about_the_cache_reaches_the_client_whole(gate: Gate) -> None:
    await gate.ask()
    (cache,) = gate.provider.caches.live()
    gate.provider.faults.add(Fault(status=400, type="invalid_request_error", message="x" * 1000))
    answer = await gate.ask()
    assert answer.status_code == 400
    assert "x" * 1000 in answer.text
    assert len(gate.provider.chats()) == 2
    await gate.ask()
    assert used(gate.provider)[-1] == cache.id


async def test_a_model_that_is_gone_does_not_cost_the_cache(
    tmp_path: Path, provider: DemoProvider
) -> None:
    async with gateway(configured(tmp_path, provider), provider) as gate:
        await gate.ask()
        (cache,) = provider.caches.live()
        provider.faults.add(Fault(status=404, type="resource_not_found_error"), times=2)
        assert (await gate.ask()).status_code == 404
        assert provider.caches.live() == [cache]
    assert provider.caches.live() == []  # its id was still known


async def test_a_cache_that_answers_400_is_left_out_too(gate: Gate) -> None:
    await gate.ask()
    gate.provider.faults.add(Fault(status=400, message="the context cache is inactive"))
    assert (await gate.ask()).status_code == 200
    assert len(gate.provider.chats()) == 3


# -- the end of it ---------------------------------------------------------------------------------


async def test_caches_live_on_between_calls_and_are_deleted_when_the_gateway_ends(
    tmp_path: Path, provider: DemoProvider
) -> None:
    async with gateway(configured(tmp_path, provider), provider) as gate:
        for n in range(3):
            await gate.ask(system=f"{SYSTEM} {n}")
        assert of_caching(provider, "DELETE") == []
        assert len(provider.caches.live()) == 3
    assert provider.caches.live() == []
    assert len(of_caching(provider, "DELETE")) == 3


async def test_a_deletion_that_fails_is_made_up_for_at_the_next_start(
    tmp_path: Path, provider: DemoProvider
) -> None:
    layout = configured(tmp_path, provider)
    async with gateway(layout, provider) as gate:
        await gate.ask()
        provider.faults.add(Fault("caching", status=500))
    assert len(provider.caches.live()) == 1
    async with gateway(layout, provider) as gate:
        await gate.models.caching.settled()
        assert provider.caches.live() == []


async def test_what_a_killed_gateway_left_is_deleted_at_the_next_start(
    tmp_path: Path, provider: DemoProvider
) -> None:
    layout = configured(tmp_path, provider)
    command = (sys.executable, "-m", "runner", "--data", str(layout.root), "gateway")
    process = await asyncio.create_subprocess_exec(
        *command, "--listen", "127.0.0.1:0", stdout=-1, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(30), httpx.AsyncClient() as client:
            assert process.stdout is not None
            url = ""
            while not url:
                line = (await process.stdout.readline()).decode()
                assert line, "the gateway ended"
                found = [word for word in line.replace('"', " ").replace("=", " ").split()
                         if word.startswith("http://127")]  # fmt: skip
                url = found[0] if found else ""
            gate = Gate(provider, None, url, None, client)  # type: ignore[arg-type]
            while not any(used(provider)):
                assert (await gate.post()).status_code == 200
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    assert len(provider.caches.live()) == 1
    async with gateway(layout, provider) as gate:
        await gate.models.caching.settled()
        assert provider.caches.live() == []


async def test_workers_share_caches_and_the_last_one_deletes_them(
    tmp_path: Path, provider: DemoProvider
) -> None:
    layout = configured(tmp_path, provider)
    async with gateway(layout, provider) as one:
        await one.ask()
        (cache,) = provider.caches.live()
        async with gateway(layout, provider) as two:
            await two.ask()
            assert used(provider)[-1] == cache.id
            assert len(of_caching(provider, "POST")) == 1
        assert provider.caches.live()[0].id == cache.id
        await one.ask()
        assert used(provider)[-1] == cache.id
    assert provider.caches.live() == []


async def test_a_removed_group_takes_its_caches_along(gate: Gate) -> None:
    await gate.ask(prompt_cache_key="one", key="key-a")
    gate.models.caching.forget("key:b")
    await gate.models.caching.settled()
    assert len(gate.provider.caches.live()) == 1
    gate.models.caching.forget("key:a")
    await gate.models.caching.settled()
    assert gate.provider.caches.live() == []
