"""The demo provider over real HTTP: what it lets in, how it streams, and how it fails on demand."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider

AGENT = "nanokimi/test"


@pytest.fixture
async def provider() -> AsyncIterator[DemoProvider]:
    async with DemoProvider() as provider:
        yield provider


@pytest.fixture
async def client(provider: DemoProvider) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"User-Agent": AGENT, "Authorization": f"Bearer {provider.issue_token()}"}
    async with httpx.AsyncClient(base_url=provider.base_url, headers=headers) as client:
        yield client


def body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "kimi-for-coding", "messages": [{"role": "user", "content": text}], **fields}


async def chat(client: httpx.AsyncClient, text: str = "hello", **fields: Any) -> httpx.Response:
    return await client.post("/chat/completions", json=body(text, **fields))


async def stream(client: httpx.AsyncClient, text: str) -> list[str]:
    request = body(text, stream=True, stream_options={"include_usage": True})
    async with client.stream("POST", "/chat/completions", json=request) as response:
        return [line.removeprefix("data: ") async for line in response.aiter_lines() if line]


async def test_a_stream_brings_reasoning_then_words_then_usage_then_done(
    client: httpx.AsyncClient,
) -> None:
    *chunks, done = await stream(client, "!think first\n!say and then words")
    assert done == "[DONE]"
    events = [json.loads(chunk) for chunk in chunks]
    deltas = [e["choices"][0]["delta"] for e in events if e["choices"]]
    kinds = [k for d in deltas for k in d if d[k]]
    assert kinds == ["role", "reasoning_content", "content", "content", "content"]
    assert events[-1]["usage"]["prompt_tokens"] > 0


async def test_a_call_without_stream_is_one_object(client: httpx.AsyncClient) -> None:
    answer = (await chat(client, "hello")).json()
    assert answer["choices"][0]["message"]["content"] == "You said: hello"
    assert answer["choices"][0]["message"]["reasoning_content"]


async def test_a_growing_conversation_hits_the_prefix_cache(client: httpx.AsyncClient) -> None:
    first = body("x" * 4096, prompt_cache_key="s")
    grown = {**first, "messages": [*first["messages"], {"role": "user", "content": "more"}]}
    usages = [
        (await client.post("/chat/completions", json=request)).json()["usage"]
        for request in (first, grown)
    ]
    assert [u["cached_tokens"] for u in usages] == [0, 1024]
    assert usages[1]["prompt_tokens_details"]["cached_tokens"] == 1024


@pytest.mark.parametrize("credential", ["", "Basic abc", "Bearer nonsense", "Bearer a.b.c"])
async def test_a_wrong_token_is_refused_like_kimi_does(
    client: httpx.AsyncClient, credential: str
) -> None:
    answer = await client.get("/models", headers={"Authorization": credential})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_authentication_error"


async def test_an_expired_or_revoked_access_token_is_refused(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    old = {"Authorization": f"Bearer {provider.issue_token(lifetime=-1)}"}
    assert (await client.get("/models", headers=old)).status_code == 401
    assert (await client.get("/models")).status_code == 200
    provider.revoke_access()
    assert (await client.get("/models")).status_code == 401


async def test_api_keys_open_both_bases_and_access_tokens_only_kimi_code(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    provider.add_api_key("sk-good")
    key = {"Authorization": "Bearer sk-good"}
    open_models = f"{provider.open_platform_url}/models"
    assert (await client.get("/models", headers=key)).status_code == 200
    found = await client.get(open_models, headers=key)
    assert "kimi-k3" in {m["id"] for m in found.json()["data"]}
    assert (await client.get(open_models)).status_code == 401
    wrong = await client.get(open_models, headers={"Authorization": "Bearer sk-bad"})
    assert wrong.json()["error"]["type"] == "incorrect_api_key_error"


async def test_an_unknown_user_agent_gets_403_on_kimi_code_only(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    provider.add_api_key("sk-good")
    other = {"User-Agent": "python-httpx/0.28", "Authorization": "Bearer sk-good"}
    assert (await client.get("/models", headers=other)).status_code == 403
    open_platform = await client.get(f"{provider.open_platform_url}/models", headers=other)
    assert open_platform.status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (
            b'{"model": "kimi-for-coding", "messages": [{"role": "user", "content": "\\ud800"}]}',
            400,
        ),
        (b'{"model": "kimi-k2.5", "messages": []}', 404),
        (b'{"messages": []}', 400),
    ],
)
async def test_a_body_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, content: bytes, status: int
) -> None:
    answer = await client.post("/chat/completions", content=content)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_require_auth_can_be_switched_off() -> None:
    async with DemoProvider(require_auth=False) as provider, httpx.AsyncClient() as client:
        answer = await client.get(f"{provider.base_url}/models", headers={"User-Agent": AGENT})
        assert answer.status_code == 200


async def test_requests_are_recorded_with_their_times(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    before = time.monotonic()
    await chat(client, "note this")
    after = time.monotonic()
    (record,) = provider.chats()
    assert record.json["messages"][0]["content"] == "note this"
    assert record.headers["user-agent"] == AGENT
    assert (record.path, record.status) == ("/coding/v1/chat/completions", 200)
    assert record.started_at is not None
    assert record.finished_at is not None
    assert before <= record.received_at <= record.started_at <= record.finished_at <= after


async def test_a_running_request_can_be_waited_for(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    provider.faults.add(Fault(stall_after=1))
    asking = asyncio.create_task(chat(client, "!say one two"))
    (record,) = await provider.wait_for(lambda records: len(records) == 1)
    assert record.finished_at is None
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_busy_caller_does_not_slow_the_server(provider: DemoProvider) -> None:
    """The event loop of this test is blocked for as long as the request takes."""
    script = (
        "import sys, urllib.request as r;"
        "q = r.Request(sys.argv[1], headers={'User-Agent': 'nanokimi/x',"
        " 'Authorization': 'Bearer ' + sys.argv[2]});"
        "sys.exit(r.urlopen(q, timeout=20).status != 200)"
    )
    subprocess.run(
        [sys.executable, "-c", script, f"{provider.base_url}/models", provider.issue_token()],
        check=True,
        timeout=30,
    )


async def test_a_status_fault_stands_in_as_often_as_told(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    fault = Fault(
        status=429, type="rate_limit_reached_error", message="slow", headers={"Retry-After": "7"}
    )
    provider.faults.add(fault, times=2)
    for _ in range(2):
        answer = await chat(client)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        assert answer.json()["error"] == {"type": "rate_limit_reached_error", "message": "slow"}
    assert (await chat(client)).status_code == 200


async def test_a_cut_breaks_the_connection_after_the_chunks_that_were_due(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    provider.faults.add(Fault(cut_after=3))
    async with client.stream("POST", "/chat/completions", json=body(stream=True)) as response:
        got: list[bytes] = []

        async def read() -> None:
            async for part in response.aiter_raw():
                got.append(part)  # noqa: PERF401  what came before the break counts

        with pytest.raises(httpx.RemoteProtocolError):
            await read()
    assert b"".join(got).count(b"data: ") == 3


async def test_an_early_end_looks_whole_but_lacks_its_finish(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    provider.faults.add(Fault(end_after=3))
    lines = await stream(client, "hello")
    assert len(lines) == 3
    assert all(json.loads(line)["choices"][0]["finish_reason"] is None for line in lines)


async def test_a_delay_comes_before_the_headers(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    provider.faults.add(Fault(delay=30.0))
    assert (await client.get("/models")).status_code == 200  # another endpoint
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/chat/completions", json=body(), timeout=0.3)
    (record,) = provider.chats()
    assert record.started_at is None


async def test_a_body_fault_sends_just_those_bytes(
    provider: DemoProvider, client: httpx.AsyncClient
) -> None:
    provider.faults.add(Fault(status=502, body=b"<html>Bad gateway</html>"))
    answer = await chat(client)
    assert (answer.status_code, answer.text) == (502, "<html>Bad gateway</html>")
    assert answer.headers["content-type"].startswith("text/html")


async def test_stopping_with_a_stalled_stream_does_not_hang() -> None:
    async with DemoProvider(require_auth=False) as provider:
        provider.faults.add(Fault(stall_after=1))
        async with httpx.AsyncClient(headers={"User-Agent": AGENT}) as client:
            url = f"{provider.base_url}/chat/completions"
            asking = asyncio.create_task(client.post(url, json=body(stream=True), timeout=60))
            await provider.wait_for(lambda records: bool(records and records[0].started_at))
            await asyncio.to_thread(provider.stop)
            with pytest.raises(httpx.HTTPError):
                await asking


async def test_it_runs_standalone_with_its_controls_and_ends_on_sigterm() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "runner.demo.provider", "--no-auto-approve"], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        where = json.loads(await asyncio.to_thread(process.stdout.readline))
        async with httpx.AsyncClient(base_url=where["oauth_host"]) as client:
            login = (await client.post("/_demo/login")).json()
            fault = {"status": 503, "times": 1}
            assert (await client.post("/_demo/faults", json=fault)).json() == {"waiting": 1}
            assert (await client.post("/_demo/faults", json={"typo": 1})).status_code == 422
            headers = {
                "User-Agent": AGENT,
                "Authorization": f"Bearer {login['access_token']}",
            }
            for status in (503, 200):
                url = f"{where['base_url']}/chat/completions"
                answer = await client.post(url, json=body(), headers=headers)
                assert answer.status_code == status
            records = (await client.get("/_demo/requests")).json()["requests"]
            assert [r["status"] for r in records] == [503, 200]
            assert (await client.post("/_demo/approve", json={"user_code": "X"})).status_code == 404
            assert (await client.get("/_demo/state")).json()["logins"] == 0
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
