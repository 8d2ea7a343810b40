"""Times and failures, against the provider over HTTP, with a clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import msgspec
import pytest

from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.demo.records import Record
from runner.errors import LoginRequiredError
from runner.gateway.caching.explicit import ExplicitCaching, Wish
from runner.gateway.opening import Answer
from runner.gateway.state import MemoryState
from runner.gateway.targets import Credential, Target


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A worker; more than one may share the state, as after a crash."""

    def __init__(self, provider: DemoProvider, clock: Clock, state: MemoryState) -> None:
        self.provider = provider
        self.clock = clock
        self.state = state
        self.token = "sk-one"
        self.client = httpx.AsyncClient()
        host = provider.open_platform_url.removeprefix("http://").removesuffix("/v1")
        self.hosts = (host,)
        self.target = Target(
            name="k2",
            provider="demo",
            vendor="moonshot",
            kind="kimi",
            format="openai",
            model="kimi-k2.6",
            base_url=provider.open_platform_url,
            credential=Credential(fingerprint="one"),
            user_agent="nanokimi/test",
            headers={"X-Team": "garden"},
        )
        self.caching = ExplicitCaching(state, self._token, lambda _: self.client, clock=clock)

    async def _token(self, credential: Credential) -> str:
        if not self.token:
            raise LoginRequiredError("no login", hint="log in")
        return self.token

    async def ask(self, system: str = "Be kind.", *, conversation: str = "a\n1") -> int:
        status = await self.begin(system, conversation=conversation)
        await self.caching.settled()
        return status

    async def begin(self, system: str = "Be kind.", *, conversation: str = "a\n1") -> int:
        body: dict[str, Any] = {
            "model": "kimi-k2.6",
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": "!say hi"},
            ],
        }

        async def post(more: Mapping[str, str]) -> Answer:
            answer = await self.client.post(
                self.target.url,
                content=msgspec.json.encode(body),
                headers={"authorization": "Bearer sk-one", **more},
            )
            names = {k.lower(): v for k, v in answer.headers.items()}
            return Answer(answer.status_code, names, answer.aiter_bytes(), answer.aclose)

        wish = Wish(self.target, "sk-one", body, conversation, self.hosts)
        return (await self.caching.send(wish, post)).status

    def calls(self, method: str) -> list[Record]:
        found = self.provider.requests
        return [r for r in found if "/caching" in r.path and r.method == method]

    @property
    def used(self) -> list[str | None]:
        return [r.headers.get("x-msh-context-cache") for r in self.provider.chats()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def desk(clock: Clock) -> AsyncIterator[Desk]:
    async with DemoProvider(clock=clock) as provider:
        provider.add_api_key("sk-one")
        made = Desk(provider, clock, MemoryState())
        await made.caching.open([made.target], made.hosts)
        async with made.client:
            yield made


async def test_a_cache_whose_time_is_up_is_not_named_and_another_is_made(
    desk: Desk, clock: Clock
) -> None:
    await desk.ask()
    clock.now += 3_600
    await desk.ask()
    assert desk.used == [None, None]
    (new,) = desk.provider.caches.live()
    await desk.ask()
    assert desk.used[-1] == new.id
    assert len(desk.calls("POST")) == 2


async def test_each_use_renews_the_life_on_both_sides(desk: Desk, clock: Clock) -> None:
    await desk.ask()
    for _ in range(4):
        clock.now += 3_000
        await desk.ask()
    (cache,) = desk.provider.caches.live()
    assert desk.used == [None, *[cache.id] * 4]
    assert len(desk.calls("POST")) == 1


async def test_a_first_life_that_the_provider_shortened_is_believed(
    desk: Desk, clock: Clock
) -> None:
    end = int(clock.now) + 100
    body = msgspec.json.encode({"id": "cache-short", "status": "ready", "expired_at": end})
    desk.provider.faults.add(Fault("caching", body=body, content_type="application/json"))
    await desk.ask()
    clock.now += 100
    await desk.ask()
    assert desk.used == [None, None]
    assert len(desk.calls("POST")) == 2


async def test_an_answer_with_nothing_but_an_id_is_a_cache(desk: Desk) -> None:
    body = b'{"id": "cache-id-xxxxx"}'
    desk.provider.faults.add(Fault("caching", body=body, content_type="application/json"))
    await desk.ask()
    assert await desk.ask() == 200
    assert desk.used == [None, "cache-id-xxxxx", None]


async def test_a_failure_that_passes_is_tried_again_after_its_rest(
    desk: Desk, clock: Clock
) -> None:
    desk.provider.faults.add(Fault("caching", status=429, headers={"retry-after": "300"}))
    await desk.ask()
    clock.now += 299
    await desk.ask()
    assert len(desk.calls("POST")) == 1
    clock.now += 1
    await desk.ask()
    await desk.ask()
    assert len(desk.calls("POST")) == 2
    assert desk.used[-1] is not None


async def test_content_that_is_refused_does_not_keep_other_content_from_being_cached(
    desk: Desk,
) -> None:
    desk.provider.faults.add(Fault("caching", status=400))
    await desk.ask("Refused.")
    await desk.ask("Be kind.")
    await desk.ask("Refused.")
    assert [r.status for r in desk.calls("POST")] == [400, 200]


async def test_a_cache_that_stays_pending_is_given_up_and_deleted(desk: Desk) -> None:
    desk.provider.caches.first_status = "pending"
    desk.provider.faults.add(Fault("caching", delay=0.0))
    desk.provider.faults.add(Fault("caching", status=500))
    await desk.ask()
    assert desk.provider.caches.live() == []
    await desk.ask()
    assert desk.used == [None, None]
    assert len(desk.calls("POST")) == 1


async def test_our_calls_carry_the_credential_and_the_headers_of_the_target(desk: Desk) -> None:
    await desk.ask()
    await desk.caching.close()
    for record in (*desk.calls("POST"), *desk.calls("DELETE")):
        assert record.headers["authorization"] == "Bearer sk-one"
        assert record.headers["user-agent"] == "nanokimi/test"
        assert record.headers["x-team"] == "garden"
    assert len(desk.calls("DELETE")) == 1


async def test_an_end_while_a_cache_is_being_made_leaves_none(desk: Desk) -> None:
    desk.provider.caches.first_status = "pending"
    desk.provider.caches.looks = 10_000
    await desk.begin()
    await desk.provider.wait_for(lambda records: any(r.method == "GET" for r in records))
    await desk.caching.close()
    assert desk.provider.caches.live() == []
    assert desk.calls("DELETE")
    assert await desk.ask() == 200
    assert len(desk.calls("POST")) == 1


async def test_leftovers_are_deleted_by_the_next_worker_and_only_once(desk: Desk) -> None:
    await desk.ask()
    following = Desk(desk.provider, desk.clock, desk.state)  # the first one is gone without a word
    async with following.client:
        await following.caching.open([following.target], following.hosts)
        await following.caching.settled()
        assert desk.provider.caches.live() == []
        await following.caching.close()
    assert len(desk.calls("DELETE")) == 1


async def test_leftovers_that_have_ended_by_themselves_are_not_asked_about(
    desk: Desk, clock: Clock
) -> None:
    await desk.ask()
    clock.now += 3_601
    following = Desk(desk.provider, clock, desk.state)
    async with following.client:
        await following.caching.open([following.target], following.hosts)
        await following.caching.settled()
    assert desk.calls("DELETE") == []
    assert desk.state.records("caches.doomed") == {}


@pytest.mark.parametrize("lost", ["target", "login"])
async def test_leftovers_without_a_credential_wait_for_one(desk: Desk, lost: str) -> None:
    await desk.ask()
    following = Desk(desk.provider, desk.clock, desk.state)
    async with following.client:
        if lost == "login":
            following.token = ""
        targets = [following.target] if lost == "login" else []
        await following.caching.open(targets, following.hosts)
        await following.caching.settled()
        assert len(desk.provider.caches.live()) == 1
        following.token = "sk-one"
        await following.caching.open([following.target], following.hosts)
        await following.caching.settled()
        assert desk.provider.caches.live() == []


async def test_a_helper_under_the_same_name_does_not_cost_a_cache_each_turn(desk: Desk) -> None:
    for _ in range(5):
        await desk.ask("The agent.")
        await desk.ask("Its helper.")
    assert len(desk.calls("POST")) == 3
    assert len(desk.calls("DELETE")) == 1


async def test_a_lost_call_to_the_provider_is_not_swallowed(desk: Desk) -> None:
    await desk.ask()

    async def broken(_: Mapping[str, str]) -> Answer:
        raise httpx.ReadError("gone")

    body = {"model": "kimi-k2.6", "messages": [{"role": "system", "content": "Be kind."}]}
    with pytest.raises(httpx.ReadError):
        await desk.caching.send(Wish(desk.target, "sk-one", body, "a\n1", desk.hosts), broken)


async def test_calls_that_run_side_by_side_lose_a_cache_together_and_get_one_new(
    desk: Desk,
) -> None:
    await desk.ask()
    await desk.ask()
    desk.provider.caches.lose_all()
    answers = await asyncio.gather(*(desk.begin(conversation=f"a\n{n}") for n in range(8)))
    await desk.caching.settled()
    assert set(answers) == {200}
    await desk.ask()
    assert len(desk.calls("POST")) == 2
