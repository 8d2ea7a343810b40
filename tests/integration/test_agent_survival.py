"""What a conversation survives: kill -9, torn files, a full disk, a new sandbox."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_client import Home, Refused, directive, home_at, running, until_file

from runner.demo.faults import Fault


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with home_at(tmp_path) as home:
        yield home


async def test_a_tool_that_ran_when_the_agent_was_killed_is_not_run_again(home: Home) -> None:
    command = "echo ran >> count; sleep 60"
    text = "\n".join(
        [
            "!think plan",
            directive("bash", command="echo first > first"),
            directive("bash", command=command),
            "!say told: {last}",
        ]
    )
    async with running(home) as agent:
        session = await agent.new(home)
        prompt = agent.prompt(session, text, "turn-7")
        await until_file(home.workspace / "count")
        agent.process.kill()
        with pytest.raises(EOFError):
            await prompt
    before = len(home.provider.chats())
    async with running(home) as agent:
        await agent.resume(home, session)
        result, answer = await agent.say(session, text, "turn-7")
    assert result["stopReason"] == "end_turn"
    assert answer.startswith("told: interrupted: the sandbox was replaced")
    assert (home.workspace / "count").read_text() == "ran\n"
    assert len(home.provider.chats()) == before + 1
    users = [m for m in home.provider.chats()[-1].json["messages"] if m["role"] == "user"]
    assert len(users) == 1


async def test_text_said_before_the_kill_is_said_again_in_the_new_sandbox(home: Home) -> None:
    step = [
        {"choices": [{"delta": {"content": "First I look.", "reasoning_content": "r"}}]},
        {
            "choices": [
                {
                    "delta": {
                        "tool_calls": [
                            {
                                "index": 0,
                                "id": "x:0",
                                "type": "function",
                                "function": {
                                    "name": "bash",
                                    "arguments": json.dumps(
                                        {"command": "echo > started; sleep 60"}
                                    ),
                                },
                            }
                        ]
                    },
                    "finish_reason": "tool_calls",
                }
            ]
        },
    ]
    body = "".join(f"data: {json.dumps(c)}\n\n" for c in step) + "data: [DONE]\n\n"
    home.provider.faults.add(Fault(body=body.encode(), content_type="text/event-stream"))
    async with running(home) as agent:
        session = await agent.new(home)
        agent.prompt(session, "!say Then I tell.", "t")
        await agent.seen("tool_call")
        agent.process.kill()
        await agent.process.wait()
    async with running(home) as agent:
        await agent.resume(home, session)
        _, answer = await agent.say(session, "!say Then I tell.", "t")
    assert answer == "First I look.\n\nThen I tell."


async def test_an_ended_turn_is_answered_again_without_asking_the_model(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        first, answer = await agent.say(session, "!say once", "turn-1")
    asked = len(home.provider.chats())
    async with running(home) as agent:
        await agent.resume(home, session)
        second, again = await agent.say(session, "!say once", "turn-1")
    assert (second, again) == (first, answer)
    assert len(home.provider.chats()) == asked


async def test_a_turn_that_failed_for_a_while_goes_on_under_its_id(home: Home) -> None:
    home.loop = "max_retries_per_step = 0"
    home.write_config()
    text = directive("bash", command="echo ran >> count") + "\n!say done"
    async with running(home) as agent:
        session = await agent.new(home)
        prompt = agent.prompt(session, text, "t")
        await agent.seen("tool_call")
        home.provider.faults.add(Fault(status=503))
        with pytest.raises(Refused):
            await prompt
        _, answer = await agent.say(session, text, "t")
    assert answer == "done"
    assert (home.workspace / "count").read_text() == "ran\n"


async def test_the_next_turn_after_a_kill_is_accepted_by_the_provider(home: Home) -> None:
    """The broken call gets its answer, which the API demands."""
    async with running(home) as agent:
        session = await agent.new(home)
        agent.prompt(session, directive("bash", command="sleep 60"), "lost")
        await agent.seen("tool_call")
        agent.process.kill()
        await agent.process.wait()
    async with running(home) as agent:
        await agent.resume(home, session)
        result, _ = await agent.say(session, "something else", "next")
    assert result["stopReason"] == "end_turn"
    roles = [m["role"] for m in home.provider.chats()[-1].json["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user"]


async def test_a_torn_last_line_is_dropped(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, "remember the quince")
    whole = home.journal().read_bytes()
    home.journal().write_bytes(whole + b'{"entry":"user","turn":"x","mess')
    async with running(home) as agent:
        await agent.resume(home, session)
        assert home.journal().read_bytes() == whole
        await agent.say(session, "and now?")
    assert "quince" in home.provider.chats()[-1].json["messages"][1]["content"]


async def test_a_broken_line_in_the_middle_is_an_error_that_names_it(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, "hello")
    header, rest = home.journal().read_bytes().split(b"\n", 1)
    home.journal().write_bytes(header + b"\ngarbage\n" + rest)
    async with running(home) as agent:
        with pytest.raises(Refused, match="line 2") as refused:
            await agent.resume(home, session)
    assert refused.value.data["code"] == "journal_corrupt"
    assert refused.value.data["retryable"] is False


async def test_a_full_disk_is_named_and_the_session_lives_on(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        size = home.journal().stat().st_size
        limits = resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (size + 20, limits[1]))
        with pytest.raises(Refused) as refused:
            await agent.say(session, "hello")
        assert refused.value.data["code"] == "disk_full"
        assert refused.value.data["retryable"] is True
        assert home.journal().stat().st_size == size
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, limits)
        result, _ = await agent.say(session, "hello")
    assert result["stopReason"] == "end_turn"


async def test_two_agents_never_write_one_journal(home: Home) -> None:
    async with running(home) as first, running(home) as second:
        session = await first.new(home)
        with pytest.raises(Refused) as refused:
            await second.resume(home, session)
        assert refused.value.data["code"] == "session_busy"
        first.process.terminate()
        await asyncio.wait_for(first.process.wait(), 10)
        await second.call("session/resume", {"sessionId": session, "cwd": str(home.workspace)})
