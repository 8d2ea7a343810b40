"""Context caching of the demo provider over HTTP: what hits, what does not, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from runner.demo.provider import DemoProvider

SYSTEM = [{"role": "system", "content": "Be kind."}, {"role": "system", "content": "Be short."}]
USER = {"role": "user", "content": "!say hi"}


def tool(name: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {}}},
    }


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(clock: Clock) -> AsyncIterator[DemoProvider]:
    async with DemoProvider(clock=clock) as made:
        made.add_api_key("sk-one")
        made.add_api_key("sk-two")
        yield made


@pytest.fixture
async def client(provider: DemoProvider) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": "Bearer sk-one"}
    async with httpx.AsyncClient(base_url=provider.open_platform_url, headers=headers) as made:
        yield made


async def create(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    body = {"model": "kimi-k2.6", "messages": SYSTEM, "ttl": 3600, **fields}
    return await client.post("/caching", json=body)


async def chat(client: httpx.AsyncClient, id_: str, **fields: Any) -> httpx.Response:
    headers = {"X-Msh-Context-Cache": id_, **fields.pop("headers", {})}
    body = {"model": "kimi-k2.6", "messages": [*SYSTEM, USER], **fields}
    return await client.post("/chat/completions", json=body, headers=headers)


async def test_a_request_that_begins_with_the_cached_messages_and_tools_hits(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    made = (await create(client, tools=[tool("a")])).json()
    assert made["status"] == "ready"
    answer = await chat(client, made["id"], tools=[tool("a")])
    assert answer.headers["Msh-Context-Cache-Id"] == made["id"]
    assert answer.headers["Msh-Context-Cache-Token-Saved"] == str(made["tokens"])
    assert answer.headers["Msh-Context-Cache-Token-Exp"] == str(int(clock.now) + 3600)
    assert answer.json()["usage"]["cached_tokens"] >= made["tokens"] > 0


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [*SYSTEM[:1], USER]},
        {"messages": [*SYSTEM[::-1], USER]},
        {"messages": [SYSTEM[0], {**SYSTEM[1], "content": "Be short"}, USER]},
        {"messages": [SYSTEM[0], {**SYSTEM[1], "name": "x"}, USER]},
        {"messages": [USER]},
        {"tools": [tool("b")]},
        {"tools": [tool("a"), tool("b")]},
        {"tools": []},
        {"model": "kimi-k3"},
    ],
)
async def test_the_smallest_difference_is_no_hit(
    client: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    made = (await create(client, tools=[tool("a")])).json()
    answer = await chat(client, made["id"], **{"tools": [tool("a")], **change})
    assert answer.status_code == 200
    assert "Msh-Context-Cache-Id" not in answer.headers


async def test_the_reset_header_renews_the_life_and_without_it_a_cache_ends(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    id_ = (await create(client)).json()["id"]
    clock.now += 3000
    await chat(client, id_, headers={"X-Msh-Context-Cache-Reset-TTL": "3600"})
    clock.now += 3000
    assert (await chat(client, id_)).status_code == 200
    clock.now += 600
    gone = await chat(client, id_)
    assert gone.status_code == 404
    assert gone.json()["error"]["type"] == "resource_not_found_error"
    assert (await client.get(f"/caching/{id_}")).status_code == 404


async def test_a_cache_can_be_looked_at_changed_listed_and_deleted(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    id_ = (await create(client)).json()["id"]
    changed = await client.put(f"/caching/{id_}", json={"ttl": 60, "metadata": {"who": "us"}})
    assert changed.json()["expired_at"] == int(clock.now) + 60
    assert (await client.get(f"/caching/{id_}")).json() == changed.json()
    assert [c["id"] for c in (await client.get("/caching")).json()["data"]] == [id_]
    refused = await client.put(f"/caching/{id_}", json={"messages": SYSTEM})
    assert refused.status_code == 400
    assert (await client.delete(f"/caching/{id_}")).json()["deleted"] is True
    assert (await client.delete(f"/caching/{id_}")).status_code == 404


async def test_a_cache_belongs_to_its_credential(client: httpx.AsyncClient) -> None:
    id_ = (await create(client)).json()["id"]
    other = {"Authorization": "Bearer sk-two"}
    assert (await client.get(f"/caching/{id_}", headers=other)).status_code == 404
    assert (await chat(client, id_, headers=other)).status_code == 404
    assert (await client.get("/caching", headers=other)).json()["data"] == []
    wrong = await client.get("/caching", headers={"Authorization": "Bearer sk-bad"})
    assert wrong.status_code == 401


@pytest.mark.parametrize(
    "fields",
    [
        {"ttl": 0},
        {"ttl": "3600"},
        {"ttl": 10**9},
        {"messages": []},
        {"messages": "text"},
        {"messages": [{"role": "cache", "content": "x"}]},
        {"tools": [{"type": "function"}]},
        {"temperature": 1},
        {"metadata": "x"},
    ],
)
async def test_a_cache_that_makes_no_sense_is_refused(
    provider: DemoProvider, client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    assert (await create(client, **fields)).status_code == 400
    assert provider.caches.live() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Msh-Context-Cache-Reset-TTL": "soon"},
        {"X-Msh-Context-Cache-Reset-TTL": "0"},
        {"X-Msh-Context-Cache-Reset-TTL": "-1"},
    ],
)
async def test_a_reset_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    id_ = (await create(client)).json()["id"]
    assert (await chat(client, id_, headers=headers)).status_code == 400
    alone = await client.post(
        "/chat/completions", json={"model": "kimi-k2.6", "messages": [USER]}, headers=headers
    )
    assert alone.status_code == 400


async def test_a_pending_cache_does_not_hit_until_it_was_looked_at_often_enough(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    provider.caches.first_status = "pending"
    provider.caches.looks = 2
    id_ = (await create(client)).json()["id"]
    assert "Msh-Context-Cache-Id" not in (await chat(client, id_)).headers
    seen = [(await client.get(f"/caching/{id_}")).json()["status"] for _ in range(2)]
    assert seen == ["pending", "ready"]
    assert "Msh-Context-Cache-Id" in (await chat(client, id_)).headers


async def test_a_base_that_does_not_offer_it_knows_neither_path_nor_header(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    coding = provider.base_url
    assert (await client.post(f"{coding}/caching", json={})).status_code == 404
    async with DemoProvider(caching=False) as bare:
        bare.add_api_key("sk-one")
        base = bare.open_platform_url
        assert (await client.post(f"{base}/caching", json={"model": "x"})).status_code == 404
        answer = await client.post(
            f"{base}/chat/completions",
            json={"model": "kimi-k2.6", "messages": [USER]},
            headers={"X-Msh-Context-Cache": "anything"},
        )
        assert answer.status_code == 200
