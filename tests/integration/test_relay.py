"""The relay behind a sandbox's socket, asked by a plain HTTP client in front of the provider."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.errors import LoginRequiredError
from runner.gateway import relay as relay_module
from runner.gateway.relay import Door, Relay, new_scoped_token
from runner.gateway.upstream import Upstream

BODY: dict[str, Any] = {
    "model": "kimi-for-coding",
    "stream": True,
    "messages": [{"role": "user", "content": "!say hello there friend"}],
}


@dataclass
class Rig:
    provider: DemoProvider
    relay: Relay
    path: Path
    token: str
    tokens: list[str]
    rejected: list[str]

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
        tokens, rejected = [provider.issue_token()], []

        async def token(refused: str | None) -> str:
            if refused is not None:
                rejected.append(refused)
                tokens.append(provider.issue_token())
            if not tokens:
                raise LoginRequiredError("the login is lost", hint="run `nanokimi login`")
            return tokens[-1]

        relay = Relay()
        path = tmp_path / "socket" / "model.sock"
        scoped = new_scoped_token()
        upstream = Upstream(provider.base_url, token, {"x-team": "birds"})
        await relay.open(path, Door("g", "kimi-for-coding", scoped, upstream))
        yield Rig(provider, relay, path, scoped, tokens, rejected)
        await relay.aclose()


async def test_the_answer_streams_through_and_the_real_token_is_put_on(rig: Rig) -> None:
    answer = await rig.post()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.rstrip().endswith("data: [DONE]")
    (asked,) = rig.provider.chats()
    assert asked.headers["authorization"] == f"Bearer {rig.tokens[-1]}"


async def test_nothing_of_the_sandbox_but_its_body_reaches_the_provider(rig: Rig) -> None:
    await rig.post()
    (asked,) = rig.provider.chats()
    assert asked.headers["user-agent"].startswith("nanokimi/")
    assert asked.headers["x-team"] == "birds"
    assert "x-forwarded-for" not in asked.headers
    assert rig.token not in str(dict(asked.headers))
    assert asked.json == BODY


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
    monkeypatch.setattr(relay_module, "MAX_BODY", 100_000)
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
    assert len(rig.rejected) == 1
    assert len(rig.provider.chats()) == 2


async def test_a_lost_login_is_said_in_the_answer(rig: Rig) -> None:
    rig.tokens.clear()
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


async def test_a_cut_stream_arrives_as_a_cut_stream(rig: Rig) -> None:
    rig.provider.faults.add(Fault(cut_after=2))
    with pytest.raises(httpx.RemoteProtocolError):
        await rig.post()
    assert (await rig.post()).status_code == 200


async def test_a_provider_that_is_away_is_a_502(rig: Rig) -> None:
    rig.provider.stop()
    answer = await rig.post()
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "provider_unavailable"


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
        while rig.relay._client._transport._pool.connections:  # type: ignore[attr-defined]
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
    upstream = Upstream(rig.provider.base_url, lambda _: asyncio.sleep(0, rig.tokens[0]))
    await rig.relay.open(path, Door("g", "kimi-for-coding", "t", upstream))
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


async def test_a_model_named_twice_is_one_model(rig: Rig) -> None:
    twice = json.dumps(BODY).encode().replace(b"{", b'{"model": "k3", ', 1)
    assert (await rig.post(twice)).status_code == 200
    (asked,) = rig.provider.chats()
    assert asked.body.count(b'"model"') == 1
    other = json.dumps({**BODY, "model": "x"}).encode()[:-1] + b', "model": "k3"}'
    assert (await rig.post(other)).status_code == 404
