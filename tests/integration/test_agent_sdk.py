"""The official Python SDK of the Agent Client Protocol drives our agent."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import acp
import pytest
from acp import schema
from agent_client import DEADLINE, Home, directive, home_at


class Client(acp.Client):
    """Collects the updates, which the SDK has checked against its schema."""

    def __init__(self) -> None:
        self.updates: list[Any] = []

    async def session_update(self, session_id: str, update: Any, **kwargs: Any) -> None:
        self.updates.append(update)

    async def request_permission(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("our agent asks for no permission")


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with home_at(tmp_path) as home:
        yield home


async def test_the_sdk_client_runs_a_turn_and_loads_it_again(home: Home) -> None:
    cwd = str(home.workspace)
    async with asyncio.timeout(DEADLINE):
        client = Client()
        async with acp.spawn_agent_process(
            client, sys.executable, "-m", "runner.agent", env=home.environment()
        ) as (agent, _):
            hello = await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
            assert hello.protocol_version == acp.PROTOCOL_VERSION
            assert hello.agent_capabilities is not None
            assert hello.agent_capabilities.load_session is True
            assert hello.agent_capabilities.session_capabilities is not None
            assert hello.agent_capabilities.session_capabilities.resume is not None
            assert hello.agent_info is not None
            assert hello.agent_info.name == "nanokimi-agent"
            session = await agent.new_session(cwd=cwd, mcp_servers=[])
            text = "!think hm\n" + directive("bash", command="echo hi") + "\n!say done"
            answer = await agent.prompt(
                session_id=session.session_id, prompt=[acp.text_block(text)]
            )
            assert answer.stop_reason == "end_turn"
            assert answer.usage is not None
            assert answer.usage.total_tokens > 0
        kinds = {type(update) for update in client.updates}
        assert kinds == {
            schema.AgentThoughtChunk,
            schema.AgentMessageChunk,
            schema.ToolCallStart,
            schema.ToolCallProgress,
            schema.UsageUpdate,
        }
        again = Client()
        async with acp.spawn_agent_process(
            again, sys.executable, "-m", "runner.agent", env=home.environment()
        ) as (agent, _):
            await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
            await agent.load_session(cwd=cwd, session_id=session.session_id, mcp_servers=[])
            assert type(again.updates[0]) is schema.UserMessageChunk
            prompt = asyncio.create_task(
                agent.prompt(
                    session_id=session.session_id,
                    prompt=[acp.text_block(directive("bash", command="echo > up; sleep 600"))],
                )
            )
            while not (home.workspace / "up").exists():
                await asyncio.sleep(0.01)
            await agent.cancel(session_id=session.session_id)
            assert (await prompt).stop_reason == "cancelled"


async def test_the_sdk_client_gets_a_typed_error_for_an_unknown_session(home: Home) -> None:
    async with (
        asyncio.timeout(DEADLINE),
        acp.spawn_agent_process(
            Client(), sys.executable, "-m", "runner.agent", env=home.environment()
        ) as (agent, _),
    ):
        await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
        with pytest.raises(acp.RequestError) as refused:
            await agent.load_session(cwd=str(home.workspace), session_id="nope", mcp_servers=[])
        assert refused.value.code == -32002
