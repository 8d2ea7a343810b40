"""A real agent process, a real provider: what a turn does."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agent_client import Agent, Home, Refused, directive, home_at, running

from runner.demo.faults import Fault


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with home_at(tmp_path) as home:
        yield home


def messages_bytes(body: bytes) -> bytes:
    """The ``messages`` array of a request without its closing bracket, byte for byte."""
    text = body.decode()
    start = text.index('"messages":') + len('"messages":')
    _, end = json.JSONDecoder().raw_decode(text, start)
    return text[start : end - 1].encode()


def streamed(*deltas: dict[str, Any], finish: str | None = "stop", done: bool = True) -> Fault:
    """An answer of the provider with exactly these deltas."""
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": d}]} for d in deltas]
    if finish is not None:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    body = "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n" * done
    return Fault(body=body.encode(), content_type="text/event-stream")


def call_delta(index: int, id_: str, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {
        "tool_calls": [{"index": index, "id": id_, "type": "function", "function": function}],
        "reasoning_content": "so",
    }


async def test_a_turn_uses_tools_and_answers(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        result, text = await agent.say(
            session,
            "\n".join(
                [
                    directive("write", path="notes/a.txt", content="one\ntwo\n"),
                    directive("read", path="notes/a.txt"),
                    "!say read: {last}",
                ]
            ),
        )
    assert result["stopReason"] == "end_turn"
    assert "1\tone" in text
    assert "2\ttwo" in text
    assert (home.workspace / "notes/a.txt").read_text() == "one\ntwo\n"
    kinds = [u["sessionUpdate"] for u in agent.updates]
    assert kinds.count("tool_call") == kinds.count("tool_call_update") == 2
    assert result["usage"]["totalTokens"] > 0


async def test_every_request_starts_with_the_bytes_of_the_one_before(home: Home) -> None:
    """Over steps, turns and a new process."""
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, "!think why\n" + directive("bash", command="echo ü"))
        await agent.say(session, "and now {x: 'é \\u0041'}")
    async with running(home) as agent:
        await agent.resume(home, session)
        await agent.say(session, directive("glob", pattern="*"))
    requests = [messages_bytes(r.body) for r in home.provider.chats()]
    assert len(requests) == 5
    for before, after in itertools.pairwise(requests):
        assert after.startswith(before)
    assert len({r.json["prompt_cache_key"] for r in home.provider.chats()}) == 1
    assert len({json.dumps(r.json["tools"]) for r in home.provider.chats()}) == 1


async def test_reasoning_is_sent_back_with_its_tool_calls(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, "!think step by step\n" + directive("bash", command="true"))
    second = home.provider.chats()[1].json
    (called,) = [m for m in second["messages"] if m.get("tool_calls")]
    assert called["reasoning_content"] == "step by step"
    assert "content" not in called
    assert second["thinking"] == {"type": "enabled", "keep": "all"}
    thoughts = [u for u in agent.updates if u["sessionUpdate"] == "agent_thought_chunk"]
    assert "".join(u["content"]["text"] for u in thoughts).startswith("step by step")


async def test_texts_of_two_steps_are_joined_by_an_empty_line(home: Home) -> None:
    home.provider.faults.add(
        streamed(
            {"content": "Let me look."},
            call_delta(0, "t1", "bash", '{"command": "echo x"}'),
            finish="tool_calls",
        )
    )
    home.provider.faults.add(streamed({"content": "It is "}, {"content": "x."}))
    async with running(home) as agent:
        session = await agent.new(home)
        _, text = await agent.say(session, "look", "turn-1")
        assert text == "Let me look.\n\nIt is x."
        _, again = await agent.say(session, "look", "turn-1")
    assert again == text


async def test_parallel_calls_are_each_answered_in_order(home: Home) -> None:
    calls = [
        {"name": "bash", "arguments": {"command": f"echo {word}"}} for word in ("one", "two", "six")
    ]
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, "!parallel " + json.dumps(calls))
    assert [r.split("\n")[0] for r in agent.results()] == ["one", "two", "six"]
    roles = [m["role"] for m in home.provider.chats()[1].json["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "tool", "tool"]


async def test_bad_arguments_and_unknown_tools_are_told_to_the_model(home: Home) -> None:
    home.provider.faults.add(
        streamed(
            call_delta(0, "a", "bash", '{"command": '),
            call_delta(1, "b", "teleport", "{}"),
            call_delta(2, "c", "bash", '{"cmd": "ls"}'),
            finish="tool_calls",
        )
    )
    async with running(home) as agent:
        session = await agent.new(home)
        result, _ = await agent.say(session, "go")
    assert result["stopReason"] == "end_turn"
    broken, unknown, wrong = agent.results()
    assert "JSON" in broken
    assert "no tool 'teleport'" in unknown
    assert "cmd" in wrong


async def test_agents_md_is_in_the_system_text_and_a_link_is_not_followed(home: Home) -> None:
    (home.workspace / "AGENTS.md").write_text("The cat is called Mia.")
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, "hello")
        (home.workspace / "AGENTS.md").unlink()
        (home.workspace / "AGENTS.md").symlink_to("/etc/passwd")
        await agent.say(session, "hello")
    first, second = (r.json["messages"][0]["content"] for r in home.provider.chats())
    assert "The cat is called Mia." in first
    assert "root:" not in second


async def test_retry_after_is_waited_out(home: Home) -> None:
    home.provider.faults.add(
        Fault(status=429, type="rate_limit_reached_error", headers={"Retry-After": "1"})
    )
    async with running(home) as agent:
        session = await agent.new(home)
        result, _ = await agent.say(session, "hello")
    assert result["stopReason"] == "end_turn"
    first, second = home.provider.chats()
    assert second.received_at - first.received_at >= 1.0


@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [
        (Fault(status=402, type="membership_error"), "membership", False),
        (Fault(status=429, type="exceeded_current_quota_error"), "quota_exceeded", False),
        (
            Fault(status=429, type="rate_limit_reached_error", headers={"Retry-After": "600"}),
            "rate_limited",
            True,
        ),
        (Fault(status=404, type="resource_not_found_error"), "model_not_found", False),
        (Fault(status=400, type="invalid_request_error"), "bad_request", False),
    ],
)
async def test_a_refusal_is_named_and_the_next_prompt_works(
    home: Home, fault: Fault, code: str, retryable: bool
) -> None:
    home.provider.faults.add(fault)
    async with running(home) as agent:
        session = await agent.new(home)
        with pytest.raises(Refused) as refused:
            await agent.say(session, "hello")
        result, _ = await agent.say(session, "hello again")
    assert refused.value.code == -32603
    assert refused.value.data["code"] == code
    assert refused.value.data["retryable"] is retryable
    assert refused.value.data["hint"]
    assert refused.value.data["retryAfter"] == (600 if code == "rate_limited" else None)
    assert result["stopReason"] == "end_turn"


async def test_a_provider_that_stays_down_is_told_after_the_retries(home: Home) -> None:
    home.loop = "max_retries_per_step = 1"
    home.write_config()
    home.provider.faults.add(Fault(status=503), times=2)
    async with running(home) as agent:
        session = await agent.new(home)
        with pytest.raises(Refused) as refused:
            await agent.say(session, "hello")
    assert refused.value.data["code"] == "provider_unavailable"
    assert refused.value.data["retryable"] is True
    assert len(home.provider.chats()) == 2


async def test_a_message_the_model_refuses_does_not_poison_the_session(home: Home) -> None:
    home.provider.faults.add(Fault(status=400, type="invalid_request_error", message="high risk"))
    async with running(home) as agent:
        session = await agent.new(home)
        with pytest.raises(Refused, match="high risk"):
            await agent.say(session, "poison")
        await agent.say(session, "fine")
    said = [m["content"] for m in home.provider.chats()[-1].json["messages"]]
    assert "poison" not in said


async def test_a_message_larger_than_the_context_is_refused_without_a_request(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        with pytest.raises(Refused) as refused:
            await agent.say(session, "x" * 2_000_000)
        assert refused.value.data["code"] == "context_too_long"
        assert home.provider.chats() == []
        result, _ = await agent.say(session, "short")
    assert result["stopReason"] == "end_turn"


async def test_a_cut_stream_is_asked_again_and_no_text_is_doubled(home: Home) -> None:
    half = {"content": "one two "}, {"content": "thr"}
    home.provider.faults.add(streamed(*half, finish=None, done=False))
    async with running(home) as agent:
        session = await agent.new(home)
        _, text = await agent.say(session, "!say one two three four five six")
    assert text == "one two three four five six"
    resets = [u for u in agent.updates if (u.get("_meta") or {}).get("nanokimi", {}).get("reset")]
    assert len(resets) == 1
    assert len(home.provider.chats()) == 2


async def test_a_connection_that_breaks_is_asked_again(home: Home) -> None:
    home.provider.faults.add(Fault(cut_after=2))
    async with running(home) as agent:
        session = await agent.new(home)
        _, text = await agent.say(session, "!say one two three")
    assert text == "one two three"
    assert len(home.provider.chats()) == 2


async def test_a_stream_without_a_finish_reason_is_never_an_answer(home: Home) -> None:
    home.loop = "max_retries_per_step = 0"
    home.write_config()
    home.provider.faults.add(streamed({"content": "half"}, finish=None))
    async with running(home) as agent:
        session = await agent.new(home)
        with pytest.raises(Refused) as refused:
            await agent.say(session, "hello")
    assert refused.value.data["code"] == "stream_cut"


async def test_the_token_file_is_read_again_for_each_request(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, "one")
        second = home.provider.issue_token()
        home.write_token(second)
        await agent.say(session, "two")
    tokens = [r.headers["authorization"] for r in home.provider.chats()]
    assert tokens[1] == f"Bearer {second}"
    assert tokens[0] != tokens[1]


async def test_a_rejected_token_costs_one_more_read_then_asks_for_a_login(home: Home) -> None:
    home.write_token("spent")
    async with running(home) as agent:
        session = await agent.new(home)
        with pytest.raises(Refused) as refused:
            await agent.say(session, "hello")
        assert len(home.provider.chats()) == 2
        home.write_token(home.provider.issue_token())
        result, _ = await agent.say(session, "hello")
    assert refused.value.code == -32000
    assert refused.value.data["code"] == "login_required"
    assert result["stopReason"] == "end_turn"


async def test_a_missing_token_file_asks_for_a_login(home: Home) -> None:
    (home.kimi / "credentials" / "kimi-code.json").unlink()
    async with running(home) as agent:
        session = await agent.new(home)
        with pytest.raises(Refused) as refused:
            await agent.say(session, "hello")
    assert refused.value.code == -32000
    assert "nanokimi login" in refused.value.data["hint"]


async def test_steering_reaches_the_model_before_its_next_answer(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        gate = home.workspace / "gate"
        prompt = agent.prompt(
            session, directive("bash", command="until [ -e gate ]; do sleep 0.01; done")
        )
        await agent.seen("tool_call")
        await agent.call("_nanokimi/steer", {"sessionId": session, "text": "!say steered"})
        gate.touch()
        await prompt
        assert agent.answer() == "steered"
        with pytest.raises(Refused) as refused:
            await agent.call("_nanokimi/steer", {"sessionId": session, "text": "late"})
    assert refused.value.data["code"] == "no_turn"
    roles = [m["role"] for m in home.provider.chats()[1].json["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user"]


async def test_one_turn_at_a_time_in_a_session(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        first = agent.prompt(session, directive("bash", command="sleep 60"))
        await agent.seen("tool_call")
        with pytest.raises(Refused) as refused:
            await agent.call(
                "session/prompt",
                {"sessionId": session, "prompt": [{"type": "text", "text": "second"}]},
            )
        agent.cancel(session)
        assert (await first)["stopReason"] == "cancelled"
    assert refused.value.data["retryable"] is True


async def test_the_step_limit_ends_a_turn(home: Home) -> None:
    home.loop = "max_steps_per_turn = 2"
    home.write_config()
    async with running(home) as agent:
        session = await agent.new(home)
        lines = [directive("bash", command=f"echo {n}") for n in range(5)]
        result, _ = await agent.say(session, "\n".join(lines))
    assert result["stopReason"] == "max_turn_requests"
    assert len(home.provider.chats()) == 2


async def test_an_answer_cut_by_its_length_says_so(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        result, _ = await agent.say(session, "!length\n!say too long")
    assert result["stopReason"] == "max_tokens"


async def test_ralph_says_the_prompt_again(home: Home) -> None:
    home.loop = "max_ralph_iterations = 2"
    home.write_config()
    async with running(home) as agent:
        session = await agent.new(home)
        result, text = await agent.say(session, "!say done")
    assert result["stopReason"] == "end_turn"
    assert len(home.provider.chats()) == 3
    assert text == "done\n\ndone\n\ndone"


async def test_a_full_context_is_compacted_and_the_turn_goes_on(home: Home) -> None:
    home.context = 20_000
    home.loop = "reserved_context_size = 15000"
    home.write_config()
    async with running(home) as agent:
        session = await agent.new(home)
        long = "the secret word is quince. " * 800
        await agent.say(session, f"{long}\n!say noted")
        result, text = await agent.say(session, "!say still here")
        assert result["stopReason"] == "end_turn"
        assert text == "still here"
    _, summing, after = (r.json for r in home.provider.chats())
    assert "tools" not in summing
    assert "quince" in summing["messages"][-1]["content"]
    summary, last = after["messages"][1:]
    assert summary["content"].startswith("Summary of the conversation so far")
    assert last["content"] == "!say still here"
    async with running(home) as agent:
        await agent.resume(home, session)
        await agent.say(session, "hi")
    assert home.provider.chats()[-1].json["messages"][1:3] == [summary, last]


async def test_a_context_the_provider_finds_too_long_is_compacted(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, "remember the quince")
        home.provider.faults.add(
            Fault(
                status=400,
                type="invalid_request_error",
                message="Your request exceeded model token limit: 262144",
            )
        )
        result, text = await agent.say(session, "!say on we go")
    assert result["stopReason"] == "end_turn"
    assert text == "on we go"
    assert "Summary" in home.provider.chats()[-1].json["messages"][1]["content"]


async def test_the_model_is_reached_through_the_socket_of_the_run_directory(home: Home) -> None:
    """What an isolated sandbox has: a Unix socket with a relay behind it."""
    host, port = home.provider.oauth_host.removeprefix("http://").split(":")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))

    home.extra = '[nanokimi]\nmodel_socket = "model.sock"'
    real = home.provider.base_url
    home.write_config()
    config = home.kimi / "config.toml"
    config.write_text(config.read_text().replace(real, "http://model.invalid/coding/v1"))
    server = await asyncio.start_unix_server(relay, home.root / "model.sock")
    async with server, running(home) as agent:
        session = await agent.new(home)
        _, text = await agent.say(session, "!say through the socket")
        server.close()
    assert text == "through the socket"
    assert home.provider.chats()[0].headers["host"] == "model.invalid"


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def test_the_whole_conversation_is_replayed_by_session_load(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, "!think hmm\n" + directive("bash", command="echo x") + "\n!say ok")
    async with running(home) as agent:
        await agent.resume(home, session, "session/load")
        kinds = [u["sessionUpdate"] for u in agent.updates]
    assert kinds == [
        "user_message_chunk",
        "agent_thought_chunk",
        "tool_call",
        "tool_call_update",
        "agent_thought_chunk",
        "agent_message_chunk",
    ]
    assert agent.answer() == "ok"


async def errors_of(agent: Agent, method: str, params: object) -> int:
    with pytest.raises(Refused) as refused:
        await agent.call(method, params)
    return refused.value.code


async def test_wrong_calls_get_the_standard_errors(home: Home) -> None:
    cwd = str(home.workspace)
    async with running(home) as agent:
        session = await agent.new(home)
        assert await errors_of(agent, "session/fly", {}) == -32601
        assert await errors_of(agent, "session/new", {"cwd": 7}) == -32602
        assert await errors_of(agent, "session/new", {"cwd": "relative"}) == -32602
        assert await errors_of(agent, "session/new", {"cwd": "/no/such/place"}) == -32602
        for id_ in ("nope", "../../etc", ""):
            assert await errors_of(agent, "session/load", {"sessionId": id_, "cwd": cwd}) == -32002
        empty = {"sessionId": session, "prompt": [{"type": "text", "text": " "}]}
        assert await errors_of(agent, "session/prompt", empty) == -32602
        assert await agent.call("authenticate", {"methodId": "x"}) == {}
