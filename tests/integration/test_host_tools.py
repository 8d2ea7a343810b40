"""The tools of the host as agents use them: real sandboxes, real sockets, a real store."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from rig import rig

from runner.host.tools.messages import SendMessage
from runner.model import folder_of


def call(name: str, **arguments: Any) -> str:
    return f"!call {name} {json.dumps(arguments)}"


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [e["kind"] for e in events]


@pytest.fixture
def config(backend: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    made: dict[str, Any] = {"backend": backend}
    if backend == "docker":
        made["image"] = request.getfixturevalue("agent_image")
    return made


@pytest.mark.parametrize("backend", ["process", pytest.param("docker", marks=pytest.mark.docker)])
async def test_a_message_in_mid_turn_is_an_event_before_the_answer(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    async with rig(tmp_path, **config) as r:
        events = await r.say("birds", f"{call('send_message', text='half done')}\n!say all done")
        (sent,) = [e for e in events if e.kind == "message.sent"]
        turn = events[-1].data["turn_id"]
        assert sent.data == {"turn_id": turn, "delivery_id": None, "text": "half done"}
        assert events[-1].data["text"] == "all done"
        assert kinds(await r.events("birds")).count("message.sent") == 1


async def test_the_model_is_told_of_host_tools_behind_the_built_in_ones(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.ask("birds", "!say one")
        await r.ask("birds", "!say two")
        first, second = r.provider.chats()
        names = [t["function"]["name"] for t in first.json["tools"]]
        assert names[:2] == ["bash", "read"]
        assert names.index("send_message") > names.index("grep")
        assert "register_group" not in names  # this group is not an admin's
        assert json.dumps(first.json["tools"]) == json.dumps(second.json["tools"])


async def test_a_sandbox_that_calls_its_provider_itself_has_the_hosts_tools_too(
    tmp_path: Path,
) -> None:
    more = '[groups.birds]\nnetwork = "open"'
    async with rig(tmp_path, more=more) as r:
        assert await r.ask("birds", f"{call('send_message', text='hi')}\n!say {{last}}") == "sent"
        await r.ask("birds", "!say again")
        assert kinds(await r.events("birds")).count("message.sent") == 1


async def test_a_tool_tells_no_chat_the_token_that_an_open_sandbox_holds(tmp_path: Path) -> None:
    more = '[groups.birds]\nnetwork = "open"'
    async with rig(tmp_path, more=more) as r:
        await r.ask("birds", "!say hi")
        projected = r.layout.credentials_projection(folder_of("birds")) / "kimi-code.json"
        token = json.loads(projected.read_text())["access_token"]
        said = call("send_message", text=f"it is {token}!")
        when = {"kind": "interval", "when": "1h"}
        said += f"\n{call('schedule_task', prompt=f'say {token}', **when)}"
        await r.ask("birds", f"{said}\n!say over")
        (sent,) = [e for e in await r.events("birds") if e["kind"] == "message.sent"]
        assert sent["text"] == "it is [redacted]!"
        (task,) = await r.host.tasks.list("birds")
        assert task.task.prompt == "say [redacted]"


async def test_who_asks_decides_what_the_model_is_offered(tmp_path: Path) -> None:
    more = '[tools.send_message]\nrole = "admin"\n[people.roles]\nu1 = "admin"'
    async with rig(tmp_path, more=more) as r:
        offered = []
        for sender in ("u1", "u2", "u1"):
            await r.ask("birds", "!say hello", sender_id=sender)
            asked = r.provider.chats()[-1].json
            offered.append("send_message" in [t["function"]["name"] for t in asked["tools"]])
        assert offered == [True, False, True]  # in one and the same sandbox


async def test_a_cancelled_turn_ends_the_call_that_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, ended = asyncio.Event(), asyncio.Event()

    async def endless(*_: object) -> str:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    monkeypatch.setattr(SendMessage, "call", endless)
    async with rig(tmp_path) as r, asyncio.timeout(60):
        asking = asyncio.create_task(r.say("birds", call("send_message", text="x")))
        await waiting.wait()
        await r.host.cancel("birds")
        assert (await asking)[-1].data["status"] == "cancelled"
        await ended.wait()
        assert await r.ask("birds", "!say next") == "next"


async def test_a_bug_in_a_tool_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> str:
        raise ZeroDivisionError("at /host/path")

    monkeypatch.setattr(SendMessage, "call", broken)
    async with rig(tmp_path) as r:
        said = await r.ask("birds", f"{call('send_message', text='x')}\n!say {{last}}")
        assert said == "send_message failed inside the host (ZeroDivisionError)"
