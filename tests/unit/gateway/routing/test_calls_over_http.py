"""Plans carried out over real HTTP, against the demo provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
import msgspec
import pytest

from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.gateway.calls import Ask, Opened, Policy, Refused, SystemClock, call
from runner.gateway.opening import Answer
from runner.gateway.rests import Rests
from runner.gateway.routing import Plan
from runner.gateway.shaping import shape
from runner.gateway.state import MemoryState

from .conftest import Route, entry

REQUEST = {
    "model": "pool",
    "messages": [{"role": "user", "content": "say: one two three"}],
    "stream": True,
}
POLICY = Policy(max_retries=2, deadline=30.0)


class Client:
    """A sender as the server has one: httpx, streaming, one connection pool."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rests = Rests(MemoryState())
        self.http = httpx.AsyncClient(timeout=10)

    async def send(self, ask: Ask) -> Answer:
        target = ask.target
        request = self.http.build_request(
            "POST",
            target.url,
            content=msgspec.json.encode(shape(REQUEST, target, self.plan.route)),
            headers={
                "authorization": f"Bearer {target.credential.secret.reveal()}",
                "user-agent": target.user_agent,
                "content-type": "application/json",
            },
        )
        answer = await self.http.send(request, stream=True)
        return Answer(answer.status_code, answer.headers, answer.aiter_raw(), answer.aclose)

    async def call(self) -> Opened | Refused:
        return await call(self.plan, self.send, SystemClock(), self.rests, policy=POLICY)


@pytest.fixture
async def provider() -> AsyncIterator[DemoProvider]:
    async with DemoProvider() as demo:
        for key in ("sk-one", "sk-two"):
            demo.add_api_key(key)
        yield demo


@pytest.fixture
async def client(provider: DemoProvider, route: Route) -> AsyncIterator[Client]:
    there = f'"{provider.base_url}"'
    other = f'"{provider.open_platform_url}"'
    text = entry(
        "pool",
        "kimi-code/kimi-coding",
        api_base=there,
        api_key='"sk-one"',
        api_keys='["sk-two"]',
        fallbacks='["other"]',
    ) + entry("other", "moonshot/kimi-k2.6", api_base=other, api_key='"sk-one"')
    plan = route(text).resolve("pool", session="s")
    assert isinstance(plan, Plan)
    made = Client(plan)
    async with made.http:
        yield made


async def opened(client: Client) -> Opened:
    outcome = await client.call()
    assert isinstance(outcome, Opened), outcome
    return outcome


async def whole(answer: Opened) -> bytes:
    async with answer:
        return b"".join([chunk async for chunk in answer.body()])


async def test_the_demo_provider_answers_a_plan(client: Client) -> None:
    answer = await opened(client)
    assert answer.headers["x-nanokimi-model"] == "kimi-for-coding"
    assert (await whole(answer)).rstrip().endswith(b"data: [DONE]")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=429, type="engine_overloaded_error"),
        Fault(status=502, body=b"<html>Bad gateway</html>"),
        Fault(cut_after=0),
        Fault(end_after=0),
    ],
)
async def test_a_failure_before_the_first_byte_is_healed(
    client: Client, provider: DemoProvider, fault: Fault
) -> None:
    provider.faults.add(fault)
    answer = await opened(client)
    assert [bool(a.reason) for a in answer.attempts] == [True, False]
    assert (await whole(answer)).rstrip().endswith(b"data: [DONE]")
    used = {r.headers["authorization"] for r in provider.chats()}
    assert len(provider.chats()) == 2
    assert len(used) == 1


async def test_a_rate_limit_goes_to_the_other_key_and_then_to_the_other_model(
    client: Client, provider: DemoProvider
) -> None:
    limited = Fault(status=429, type="rate_limit_reached_error", headers={"retry-after": "60"})
    provider.faults.add(limited, times=2)
    answer = await opened(client)
    assert answer.headers == {
        "x-nanokimi-provider": "moonshot",
        "x-nanokimi-model": "kimi-k2.6",
        "x-nanokimi-fallback": "true",
        "x-nanokimi-attempts": "3",
    }
    await whole(answer)
    keys = [r.headers["authorization"] for r in provider.chats()]
    assert keys[0] != keys[1]
    assert [r.path for r in provider.chats()] == ["/coding/v1/chat/completions"] * 2 + [
        "/v1/chat/completions"
    ]


async def test_a_stream_that_is_cut_in_the_middle_is_not_continued_by_another(
    client: Client, provider: DemoProvider
) -> None:
    provider.faults.add(Fault(cut_after=3))
    with pytest.raises(httpx.RemoteProtocolError):
        await whole(await opened(client))
    assert len(provider.chats()) == 1


async def test_a_wrong_key_is_left_for_its_sibling(client: Client, provider: DemoProvider) -> None:
    first = client.plan.candidates[0].target.credential.secret.reveal()
    wrong = Fault(status=401, type="invalid_authentication_error", message=f"not {first[:3]}")
    provider.faults.add(wrong)
    for _ in range(2):
        await whole(await opened(client))
    keys = [r.headers["authorization"] for r in provider.chats()]
    assert [key == f"Bearer {first}" for key in keys] == [True, False, False]


class Silent:
    """A provider that sends ``beginning`` and nothing more, and notices when it is hung up on."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = beginning
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"]")  # the end of the messages
        writer.write(self._beginning)
        await writer.drain()
        self.asked.set()
        while await reader.read(65536):
            pass
        self.left.set()
        writer.close()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("beginning", [b"", HEAD, HEAD + b"f\r\ndata: {}\n\ndata:\r\n"])
async def test_a_client_that_leaves_is_a_connection_that_closes_upstream(
    route: Route, beginning: bytes
) -> None:
    silent = Silent(beginning)
    server = await asyncio.start_server(silent.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    plan = route(entry("e", "m", api_base=f'"http://127.0.0.1:{port}/v1"')).resolve("e")
    assert isinstance(plan, Plan)
    client = Client(plan)
    async with server, client.http:
        calling = asyncio.create_task(client.call())
        if b"data: {}" in beginning:
            answer = await asyncio.wait_for(calling, 10)
            assert isinstance(answer, Opened)
            async with answer, aclosing(answer.body()) as body:
                await anext(body)
        else:
            await asyncio.wait_for(silent.asked.wait(), 10)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
        await asyncio.wait_for(silent.left.wait(), 10)
