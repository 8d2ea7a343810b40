"""The gateway in front of the strict provider, asked by the official SDKs as they are."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from rig import Rig, rig

from runner.demo.faults import Fault

KEY = "gw-test-key"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "bash",
            "description": "run",
            "parameters": {
                "type": "object",
                "properties": {"command": {"type": "string"}},
                "required": ["command"],
            },
        },
    }
]
CALL = '!call bash {"command": "ls"}\n!say done: {last}'


@pytest.fixture
async def r(tmp_path: Path) -> AsyncIterator[Rig]:
    more = f"""
[gateway]
keys = [{{key = "{KEY}", name = "tests"}}, {{key = "gw-small-key", models = ["other"]}}]

[[model_list]]
model_name = "pool"
model = "kimi-for-coding"
provider = "demo"
auth = "oauth"
fallbacks = ["kimi-code"]
"""
    async with rig(tmp_path, more=more) as made:
        yield made


@pytest.fixture
async def chat(r: Rig) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{r.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(r: Rig) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=r.url, api_key=KEY, max_retries=0) as client:
        yield client


async def test_an_openai_client_streams_an_answer(chat: openai.AsyncOpenAI) -> None:
    stream = await chat.chat.completions.create(
        model="kimi-code",
        messages=[{"role": "user", "content": "!say one two three"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [c async for c in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "one two three"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


async def test_a_client_that_did_not_ask_for_usage_gets_no_chunk_without_choices(
    chat: openai.AsyncOpenAI,
) -> None:
    stream = await chat.chat.completions.create(
        model="kimi-code", messages=[{"role": "user", "content": "!say hi"}], stream=True
    )
    assert all([c.choices async for c in stream])


async def test_an_openai_client_that_drops_reasoning_never_sees_the_400(
    r: Rig, chat: openai.AsyncOpenAI
) -> None:
    messages: list[Any] = [{"role": "user", "content": CALL}]
    first = await chat.chat.completions.create(model="kimi-code", messages=messages, tools=TOOLS)
    said = first.choices[0].message
    assert said.tool_calls
    reasoning = (said.model_extra or {}).get("reasoning_content")
    assert reasoning
    calls = [c.model_dump() for c in said.tool_calls]
    messages += [
        {"role": "assistant", "content": said.content, "tool_calls": calls},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "notes.txt"},
    ]
    second = await chat.chat.completions.create(model="kimi-code", messages=messages, tools=TOOLS)
    assert second.choices[0].message.content == "done: notes.txt"
    sent = r.provider.chats()[-1].json["messages"]
    assert sent[1]["reasoning_content"] == reasoning


@pytest.mark.parametrize("stream", [True, False])
async def test_an_anthropic_client_uses_tools_and_thinks(
    r: Rig, claude: anthropic.AsyncAnthropic, stream: bool
) -> None:
    tool: Any = {
        "name": "bash",
        "description": "run",
        "input_schema": TOOLS[0]["function"]["parameters"],  # type: ignore[index]
    }
    messages: list[Any] = [{"role": "user", "content": CALL}]

    async def ask() -> Any:
        wish: Any = {
            "model": "kimi-code",
            "max_tokens": 4000,
            "messages": messages,
            "tools": [tool],
            "thinking": {"type": "enabled", "budget_tokens": 2000},
        }
        if not stream:
            return await claude.messages.create(**wish)
        async with claude.messages.stream(**wish) as events:
            return await events.get_final_message()

    first = await ask()
    assert first.stop_reason == "tool_use"
    kinds = [b.type for b in first.content]
    assert kinds[0] == "thinking"
    use = next(b for b in first.content if b.type == "tool_use")
    assert use.input == {"command": "ls"}
    messages += [
        {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in first.content]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "notes.txt"}],
        },
    ]
    second = await ask()
    assert second.content[-1].text == "done: notes.txt"
    assert second.stop_reason == "end_turn"
    assert second.usage.output_tokens > 0
    sent = r.provider.chats()[-1].json["messages"]
    assert sent[1]["reasoning_content"]


async def test_an_anthropic_client_without_thinking_reads_the_text_first(
    claude: anthropic.AsyncAnthropic,
) -> None:
    answer = await claude.messages.create(
        model="kimi-code", max_tokens=100, messages=[{"role": "user", "content": "!say hi"}]
    )
    assert answer.content[0].type == "text"
    assert answer.content[0].text == "hi"


async def test_tokens_are_counted_and_models_are_listed(
    chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    counted = await claude.messages.count_tokens(
        model="kimi-code", messages=[{"role": "user", "content": "hello there"}]
    )
    assert counted.input_tokens > 0
    names = [m.id async for m in chat.models.list()]
    assert {"kimi-code", "pool", "route:FAST"} <= set(names)
    assert [m.id async for m in claude.models.list()] == names


async def test_errors_have_the_shape_of_the_api_that_was_called(
    r: Rig, chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    ask: Any = [{"role": "user", "content": "x"}]
    with pytest.raises(openai.NotFoundError, match="kimi-code"):
        await chat.chat.completions.create(model="kimi-cod", messages=ask)
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.create(model="nothing-like-it", max_tokens=10, messages=ask)
    with pytest.raises(openai.AuthenticationError):
        await chat.with_options(api_key="wrong").chat.completions.create(
            model="kimi-code", messages=ask
        )
    with pytest.raises(anthropic.AuthenticationError):
        await claude.with_options(api_key="wrong").messages.create(
            model="kimi-code", max_tokens=10, messages=ask
        )
    with pytest.raises(openai.PermissionDeniedError):
        await chat.with_options(api_key="gw-small-key").chat.completions.create(
            model="kimi-code", messages=ask
        )
    with pytest.raises(openai.BadRequestError):
        await chat.chat.completions.create(model="kimi-code", messages=[])
    assert r.provider.chats() == []


async def test_the_wish_to_wait_reaches_the_client(r: Rig, chat: openai.AsyncOpenAI) -> None:
    r.provider.faults.add(
        Fault(status=429, type="rate_limit_reached_error", headers={"retry-after": "77"}), times=20
    )
    with pytest.raises(openai.RateLimitError) as e:
        await chat.chat.completions.create(
            model="kimi-code", messages=[{"role": "user", "content": "x"}]
        )
    assert int(e.value.response.headers["retry-after"]) > 60


async def test_a_failure_that_passes_is_tried_again_and_told_in_the_headers(
    r: Rig, chat: openai.AsyncOpenAI
) -> None:
    r.provider.faults.add(Fault(status=500), times=1)
    answer = await chat.chat.completions.with_raw_response.create(
        model="kimi-code", messages=[{"role": "user", "content": "!say hi"}]
    )
    assert answer.headers["x-nanokimi-attempts"] == "2"
    assert answer.headers["x-nanokimi-fallback"] == "false"
    assert answer.headers["x-nanokimi-model"] == "kimi-for-coding"
    assert answer.parse().choices[0].message.content == "hi"


async def test_a_cut_answer_is_an_error_and_never_an_end(
    r: Rig, chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    for ending in ({"cut_after": 4}, {"end_after": 4}):
        r.provider.faults.add(Fault(**ending), times=1)  # type: ignore[arg-type]
        stream = await chat.chat.completions.create(
            model="kimi-code",
            messages=[{"role": "user", "content": "!say one two three four five six"}],
            stream=True,
        )
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
        r.provider.faults.add(Fault(**ending), times=1)  # type: ignore[arg-type]
        with pytest.raises(anthropic.APIError):
            async with claude.messages.stream(
                model="kimi-code",
                max_tokens=100,
                messages=[{"role": "user", "content": "!say one two three four five six"}],
            ) as events:
                await events.get_final_message()


async def test_a_client_that_leaves_ends_the_call(r: Rig, chat: openai.AsyncOpenAI) -> None:
    r.provider.faults.add(Fault(delay=30))
    work = asyncio.create_task(
        chat.chat.completions.create(model="kimi-code", messages=[{"role": "user", "content": "x"}])
    )
    async with asyncio.timeout(20):
        while not r.provider.chats():
            await asyncio.sleep(0.02)
    work.cancel()
    await asyncio.wait({work})
    pool = r.host.models.gateway.client("")._transport._pool  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        while any(not c.is_idle() for c in pool.connections):
            await asyncio.sleep(0.02)


async def test_every_call_is_booked_with_its_tokens(r: Rig, chat: openai.AsyncOpenAI) -> None:
    for _ in range(3):
        await chat.chat.completions.create(
            model="kimi-code", messages=[{"role": "user", "content": "!say hi"}]
        )
    await r.host.models.books.flush()
    answer = await r.api.call("GET", "/api/usage", params={"by": "key"})
    row = json.dumps(answer)
    assert "tests" in row
    assert '"calls": 3' in row


async def test_many_odd_bodies_are_refused_in_shape(r: Rig) -> None:
    async with httpx.AsyncClient(headers={"x-api-key": KEY}, base_url=r.url) as client:
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"):
            for body in (b"", b"{", b"[]", b"null", b'{"model": 1}', b"\xff", b"[" * 5000):
                answer = await client.post(path, content=body)
                assert answer.status_code == 400, (path, body)
                assert "error" in answer.json()
        assert (await client.post("/v1/nothing")).status_code == 404
        assert (await client.get("/v1/messages")).status_code == 404
