"""Device login against the demo provider over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.errors import ConfigError, PermanentError, TemporaryError
from runner.oauth.device import DevicePrompt, login
from runner.oauth.headers import client_headers
from runner.oauth.store import TokenStore
from runner.oauth.tokens import TokenSet


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


class Person:
    """Sits in front of the prompt."""

    def __init__(self) -> None:
        self.prompts: list[DevicePrompt] = []
        self.asked = asyncio.Event()

    def __call__(self, prompt: DevicePrompt) -> None:
        self.prompts.append(prompt)
        self.asked.set()


async def begin(
    provider: DemoProvider, client: httpx.AsyncClient, tmp_path: Path, person: Person
) -> TokenSet:
    return await login(
        provider.oauth_host, on_prompt=person, client=client, headers=client_headers(tmp_path)
    )


async def test_an_approved_login_gives_tokens_that_work(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with DemoProvider(auto_approve=False, poll_interval=0.02) as provider:
        person = Person()
        waiting = asyncio.create_task(begin(provider, client, tmp_path, person))
        await person.asked.wait()
        polls = await provider.wait_for(lambda rs: sum(r.status == 400 for r in rs) >= 2)
        assert all(r.headers["x-msh-platform"] == "nanokimi" for r in polls)
        (prompt,) = person.prompts
        page = await client.post(
            prompt.verification_uri, data={"user_code": prompt.user_code, "decision": "approve"}
        )
        assert "Approved" in page.text
        tokens = await waiting
        assert provider.logins == 1
        store = TokenStore(tmp_path, "oauth/kimi-code")
        await store.replace(tokens)
        saved = store.load()
        assert saved is not None
        assert (saved.scope, saved.lifetime) == ("kimi-code", 900.0)
        headers = {
            "Authorization": f"Bearer {saved.access_token.get_secret_value()}",
            "User-Agent": "nanokimi/test",
        }
        models = await client.get(f"{provider.base_url}/models", headers=headers)
        assert models.status_code == 200


async def test_a_denied_login_says_so(client: httpx.AsyncClient, tmp_path: Path) -> None:
    async with DemoProvider(auto_approve=False, poll_interval=0.02) as provider:
        person = Person()
        waiting = asyncio.create_task(begin(provider, client, tmp_path, person))
        await person.asked.wait()
        assert provider.deny(person.prompts[0].user_code)
        with pytest.raises(PermanentError) as caught:
            await waiting
        assert caught.value.code == "login_denied"


async def test_a_login_nobody_approves_expires(client: httpx.AsyncClient, tmp_path: Path) -> None:
    slow = DemoProvider(auto_approve=False, poll_interval=0.02, device_lifetime=0.2)
    async with slow as provider:
        with pytest.raises(PermanentError) as caught:
            await begin(provider, client, tmp_path, Person())
        assert caught.value.code == "login_expired"


async def test_a_client_that_is_told_to_slow_down_waits_five_seconds_more(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """A client whose clock is broken polls without waiting; the answers still tell it how long."""
    waits: list[float] = []
    async with DemoProvider(auto_approve=False, poll_interval=20.0) as provider:

        async def hurry(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await login(
                provider.oauth_host,
                on_prompt=Person(),
                client=client,
                headers=client_headers(tmp_path),
                sleep=hurry,
            )
        errors = [r for r in provider.requests if r.path.endswith("/token")]
        assert [r.status for r in errors] == [400, 400]
    assert waits == [20.0, 20.0, 25.0]


async def test_failures_of_the_network_in_between_are_waited_out(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with DemoProvider(poll_interval=0.02) as provider:
        provider.faults.add(Fault("device", status=500))
        provider.faults.add(Fault("token", status=502, body=b"<html>"))
        provider.faults.add(Fault("token", body=b"garbage", status=200))
        provider.faults.add(Fault("token", status=429, headers={"Retry-After": "0"}))
        await begin(provider, client, tmp_path, Person())
        assert provider.logins == 1


async def test_a_login_can_be_given_up(client: httpx.AsyncClient, tmp_path: Path) -> None:
    async with DemoProvider(auto_approve=False, poll_interval=0.02) as provider:
        person = Person()
        waiting = asyncio.create_task(begin(provider, client, tmp_path, person))
        await person.asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_no_server_is_a_temporary_error(client: httpx.AsyncClient, tmp_path: Path) -> None:
    async with DemoProvider() as provider:
        pass
    with pytest.raises(TemporaryError) as caught:
        await begin(provider, client, tmp_path, Person())
    assert provider.oauth_host in caught.value.message


async def test_a_public_host_without_tls_is_refused(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError):
        await login("http://auth.example.com", on_prompt=Person(), client=client, headers={})


@pytest.mark.parametrize(
    "answer",
    [
        b'{"device_code": "d", "user_code": "\\u001b[2J", "verification_uri": "https://x"}',
        b'{"device_code": "d", "user_code": "A", "verification_uri": "javascript:1"}',
        b'{"padding": "' + b"x" * 70_000 + b'"}',
    ],
)
async def test_a_hostile_answer_is_never_shown(
    client: httpx.AsyncClient, tmp_path: Path, answer: bytes
) -> None:
    async with DemoProvider() as provider:
        whole = answer.replace(b"}", b', "expires_in": 60}')
        provider.faults.add(Fault("device", status=200, body=whole), times=3)
        person = Person()
        with pytest.raises(TemporaryError):
            await begin(provider, client, tmp_path, person)
        assert person.prompts == []


@pytest.mark.parametrize(
    ("form", "headers", "error"),
    [
        ({"client_id": "other"}, {}, "invalid_client"),
        ({}, {}, "invalid_client"),
        (None, {"X-Msh-Device-Id": ""}, "invalid_request"),
        (None, {"X-Msh-Device-Name": "böx".encode()}, "invalid_request"),
        (None, {"Content-Type": "application/json"}, "invalid_request"),
    ],
)
async def test_the_demo_server_refuses_what_kimi_refuses(
    client: httpx.AsyncClient,
    tmp_path: Path,
    form: dict[str, str] | None,
    headers: dict[str, str | bytes],
    error: str,
) -> None:
    async with DemoProvider() as provider:
        good = {"client_id": "17e5f671-d194-4dfb-9706-5516cb48c098"}
        sent = {**client_headers(tmp_path), **headers}
        answer = await client.post(
            f"{provider.oauth_host}/api/oauth/device_authorization",
            data=good if form is None else form or {"x": "y"},
            headers={k: v.encode() if isinstance(v, str) else v for k, v in sent.items()},
        )
        assert answer.status_code in (400, 401)
        assert answer.json()["error"] == error
