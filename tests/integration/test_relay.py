"""The relay behind a sandbox's socket, asked by a plain HTTP client in front of the provider."""

import asyncio
import contextlib
import json
import tomllib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from runner.calls import Call, Outcome
from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.errors import LoginRequiredError
from runner.gateway import relay as relay_module
from runner.gateway import routes as routes_module
from runner.gateway.budgets import Spending
from runner.gateway.reasoning_file import ReasoningFile
from runner.gateway.relay import Door, Pace, Relay, new_scoped_token
from runner.gateway.rests import Rests
from runner.gateway.routing import build_router
from runner.gateway.service import Gateway, Parts
from runner.gateway.state import MemoryState
from runner.gateway.targets import Credential
from runner.settings.load import parse_settings
from runner.settings.models import shipped

BODY: dict[str, Any] = {
    "model": "kimi-for-coding",
    "stream": True,
    "messages": [{"role": "user", "content": "!say hello there friend"}],
}


CONFIG = """
default_model = "kimi-code"
[models.kimi-code]
provider = "demo"
model = "kimi-for-coding"
[providers.demo]
type = "kimi"
base_url = "{base_url}"
oauth = {{storage = "file", key = "oauth/kimi-code", host = "{base_url}"}}
custom_headers = {{x-team = "birds"}}
"""


class Tokens:
    """Hands out tokens of the provider; counts how often one was refused."""

    def __init__(self, provider: DemoProvider) -> None:
        self.provider = provider
        self.given = [provider.issue_token()]
        self.renewed = 0

    async def token(self, credential: Credential, *, renew: bool) -> str:
        del credential
        if renew:
            self.renewed += 1
            self.given.append(self.provider.issue_token())
        if not self.given:
            raise LoginRequiredError("the login is lost", hint="run `nanokimi login`")
        return self.given[-1]


@dataclass
class Rig:
    provider: DemoProvider
    gateway: Gateway
    relay: Relay
    path: Path
    token: str
    tokens: Tokens
    booked: list[Call]

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self.path)),
            base_url="http://nanokimi.internal",
            timeout=20,
        )

    async def post(self, body: object = BODY, token: str | None = None) -> httpx.Response:
        async with self.client() as client:
            return await client.post(
                "/v1/chat/completions",
                content=body if isinstance(body, bytes) else json.dumps(body).encode(),
                headers={
                    "authorization": f"Bearer {token or self.token}",
                    "user-agent": "evil/1.0",
                    "x-forwarded-for": "1.2.3.4",
                },
            )


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with DemoProvider() as provider:
        raw = tomllib.loads(CONFIG.format(base_url=provider.base_url))
        settings = parse_settings(raw, {}, path=tmp_path / "data" / "config.toml")
        tokens, booked = Tokens(provider), []
        gateway = Gateway(
            Parts(
                settings=settings,
                router=build_router(settings, {}),
                models=shipped(),
                rests=Rests(MemoryState()),
                memory=ReasoningFile(None),
                tokens=tokens,
                spending=Spending(),
                book=booked.append,
            )
        )
        relay = Relay(lambda: gateway)
        path = tmp_path / "socket" / "model.sock"
        scoped = new_scoped_token()
        await relay.open(path, Door("g", "kimi-code", "kimi-for-coding", scoped))
        yield Rig(provider, gateway, relay, path, scoped, tokens, booked)
        await relay.aclose()
        await gateway.aclose()


async def test_the_answer_streams_through_and_the_real_token_is_put_on(rig: Rig) -> None:
    answer = await rig.post()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.rstrip().endswith("data: [DONE]")
    (asked,) = rig.provider.chats()
    assert asked.headers["authorization"] == f"Bearer {rig.tokens.given[-1]}"


async def test_nothing_of_the_sandbox_but_its_body_reaches_the_provider(rig: Rig) -> None:
    await rig.post()
    (asked,) = rig.provider.chats()
    assert asked.headers["user-agent"].startswith("nanokimi/")
    assert asked.headers["x-team"] == "birds"
    assert "x-forwarded-for" not in asked.headers
    assert rig.token not in str(dict(asked.headers))
    assert asked.json["messages"] == BODY["messages"]
    assert asked.json["model"] == BODY["model"]


async def test_pieces_pass_as_they_come(rig: Rig) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": "!slow 0.3\n!say one two three"}]}
    async with (
        rig.client() as client,
        client.stream(
            "POST",
            "/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {rig.token}"},
        ) as answer,
    ):
        first = await anext(answer.aiter_raw())
        assert b"[DONE]" not in first
        assert rig.provider.chats()[0].finished_at is None


@pytest.mark.parametrize("token", ["none", "x", "nk-sandbox-wrong", "\u00e9"])
async def test_a_wrong_token_goes_nowhere(rig: Rig, token: str) -> None:
    async with rig.client() as client:
        answer = await client.post(
            "/v1/chat/completions",
            json=BODY,
            headers={"authorization": f"Bearer {token}".encode()},
        )
    assert answer.status_code == 401
    assert rig.provider.chats() == []


async def test_a_scoped_token_is_worth_nothing_at_the_provider(rig: Rig) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.post(
            f"{rig.provider.base_url}/chat/completions",
            json=BODY,
            headers={"authorization": f"Bearer {rig.token}", "user-agent": "nanokimi/1"},
        )
    assert answer.status_code == 401


async def test_only_the_groups_own_model_can_be_asked(rig: Rig) -> None:
    answer = await rig.post({**BODY, "model": "k3"})
    assert answer.status_code == 404
    assert "kimi-for-coding" in answer.text
    assert rig.provider.chats() == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 1}', b"\xff\xfe"])
async def test_a_body_that_is_no_request_is_refused_here(rig: Rig, body: bytes) -> None:
    answer = await rig.post(body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_body_without_end_is_cut_off(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "MAX_BODY", 100_000)
    answer = await rig.post(b" " * 200_000)
    assert answer.status_code == 413
    assert (await rig.post()).status_code == 200


async def test_other_paths_lead_nowhere(rig: Rig) -> None:
    async with rig.client() as client:
        for path in ("/", "/v1/models", "/api/oauth/token", "/v1/chat/completions/../files"):
            answer = await client.get(path, headers={"authorization": f"Bearer {rig.token}"})
            assert answer.status_code in (404, 405), path
    assert rig.provider.requests == []


async def test_a_401_costs_one_renewal_and_one_retry(rig: Rig) -> None:
    rig.provider.revoke_access()
    answer = await rig.post()
    assert answer.status_code == 200
    assert rig.tokens.renewed == 1
    assert len(rig.provider.chats()) == 2


async def test_a_lost_login_is_said_in_the_answer(rig: Rig) -> None:
    rig.tokens.given.clear()
    answer = await rig.post()
    assert answer.status_code == 401
    assert "nanokimi login" in answer.text


async def test_the_wish_to_wait_reaches_the_agent(rig: Rig) -> None:
    rig.provider.faults.add(
        Fault(status=429, type="rate_limit_reached_error", headers={"retry-after": "7"})
    )
    answer = await rig.post()
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["type"] == "rate_limit_reached_error"


async def test_a_cut_stream_is_an_error_and_never_an_end(rig: Rig) -> None:
    rig.provider.faults.add(Fault(cut_after=2))
    answer = await rig.post()
    assert '"error"' in answer.text
    assert "[DONE]" not in answer.text
    assert (await rig.post()).status_code == 200


async def test_a_provider_that_is_away_is_a_502(rig: Rig) -> None:
    rig.provider.stop()
    answer = await rig.post()
    assert answer.status_code == 502
    assert "cannot be reached" in answer.text


async def test_every_call_is_booked_on_the_group(rig: Rig) -> None:
    await rig.post()
    rig.provider.faults.add(Fault(status=400, type="invalid_request_error"))
    await rig.post()
    good, bad = rig.booked
    assert (good.group, good.outcome, good.model) == ("g", Outcome.OK, "kimi-for-coding")
    assert good.tokens.output
    assert (bad.group, bad.outcome) == ("g", Outcome.FAILED)


def _connections(rig: Rig) -> list[object]:
    """Connections to the provider that are not idle."""
    pool = rig.gateway.client("")._transport._pool  # type: ignore[attr-defined]
    return [c for c in pool.connections if not c.is_idle()]


async def test_a_sandbox_that_hangs_up_ends_the_call_to_the_provider(rig: Rig) -> None:
    rig.provider.faults.add(Fault(stall_after=1))
    async with (
        rig.client() as client,
        client.stream(
            "POST",
            "/v1/chat/completions",
            json=BODY,
            headers={"authorization": f"Bearer {rig.token}"},
        ) as answer,
    ):
        await anext(answer.aiter_raw())
    async with asyncio.timeout(10):
        while _connections(rig):
            await asyncio.sleep(0.01)


async def test_a_closed_door_breaks_what_is_under_way_and_lets_nobody_in(rig: Rig) -> None:
    rig.provider.faults.add(Fault(stall_after=1))
    with pytest.raises(httpx.HTTPError):
        async with (
            rig.client() as client,
            client.stream(
                "POST",
                "/v1/chat/completions",
                json=BODY,
                headers={"authorization": f"Bearer {rig.token}"},
            ) as answer,
        ):
            chunks = answer.aiter_raw()
            await anext(chunks)
            await rig.relay.close(rig.path)
            async with asyncio.timeout(10):
                async for _ in chunks:
                    pass
    with pytest.raises(httpx.ConnectError):
        await rig.post()


async def test_a_long_path_is_no_obstacle(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 100) / "socket" / "model.sock"
    await rig.relay.open(path, Door("g", "kimi-code", "kimi-for-coding", "t"))
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o777 == 0o711


async def test_a_sandbox_holds_only_so_many_connections(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "REQUEST_DEADLINE", 1.0)
    opened = []
    for _ in range(relay_module.MAX_CONNECTIONS + 20):
        with contextlib.suppress(OSError):
            opened.append(await asyncio.open_unix_connection(str(rig.path)))
    ends = [asyncio.create_task(reader.read()) for reader, _ in opened]
    _done, waiting = await asyncio.wait(ends, timeout=0.5)
    assert len(waiting) <= relay_module.MAX_CONNECTIONS
    async with asyncio.timeout(20):
        await asyncio.gather(*ends, return_exceptions=True)
    for _, writer in opened:
        writer.close()
    assert (await rig.post()).status_code == 200


async def test_who_asks_without_end_waits_and_is_sent_away(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "RATE", 5.0)
    monkeypatch.setattr(relay_module, "BURST", 2)
    wire = httpx.AsyncHTTPTransport(uds=str(rig.path), limits=httpx.Limits(max_connections=8))
    async with httpx.AsyncClient(transport=wire, base_url="http://nanokimi.internal") as client:
        told = await asyncio.gather(*(client.get("/mcp") for _ in range(20)))
    statuses = Counter(answer.status_code for answer in told)
    assert statuses[401] < 12
    assert statuses[429] == 20 - statuses[401]
    await asyncio.sleep(1.0)
    assert (await rig.post()).status_code == 200


def test_a_pace_forgets_no_rush_and_saves_up_no_more_than_a_burst() -> None:
    pace = Pace()
    assert all(pace.wait(1000.0) == 0 for _ in range(relay_module.BURST))
    waits = [pace.wait(1000.0) for _ in range(1000)]
    allowed = [wait for wait in waits if wait is not None]
    assert allowed == sorted(allowed)
    assert len(allowed) == pytest.approx(relay_module.RATE * relay_module.LONGEST_WAIT, abs=2)
    assert pace.wait(1001.5) == 0


async def test_a_model_named_twice_is_one_model(rig: Rig) -> None:
    twice = json.dumps(BODY).encode().replace(b"{", b'{"model": "k3", ', 1)
    assert (await rig.post(twice)).status_code == 200
    (asked,) = rig.provider.chats()
    assert asked.body.count(b'"model"') == 1
    other = json.dumps({**BODY, "model": "x"}).encode()[:-1] + b', "model": "k3"}'
    assert (await rig.post(other)).status_code == 404
