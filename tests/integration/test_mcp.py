"""The MCP server on a group's socket: clients of the official SDK, and callers that mean harm."""

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from rig import Rig, rig
from structlog.testing import capture_logs
from tool_calls import Door, turn_running

from runner.host.tools import desk, server


async def sent(r: Rig, group: str) -> list[str]:
    return [str(e["text"]) for e in await r.events(group) if e["kind"] == "message.sent"]


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_a_client_of_the_official_sdk_lists_and_calls(
    tmp_path: Path, mode: Literal["auto", "legacy", "2026-07-28"]
) -> None:
    async with rig(tmp_path) as r, turn_running(r, "birds") as at:
        http = httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(uds=str(at.path)),
            headers={"authorization": f"Bearer {at.token}"},
        )
        url = "http://nanokimi.internal/mcp"
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            names = [t.name for t in (await client.list_tools()).tools]
            assert names[0] == "send_message"
            told = await client.call_tool("send_message", {"text": "from the SDK"})
            assert (told.is_error, told.content[0].text) == (False, "sent")
            wrong = await client.call_tool("send_message", {"words": 1})
            assert wrong.is_error
            assert "text: Field required" in wrong.content[0].text
        assert await sent(r, "birds") == ["from the SDK"]


async def test_a_call_is_known_by_its_key_and_else_by_what_it_says(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, turn_running(r, "birds") as at:
        assert await at.call("send_message", key="1/a", text="once") == ("sent", False)
        assert await at.call("send_message", key="1/a", text="once") == ("sent", False)
        assert await at.call("send_message", text="twice") == ("sent", False)
        assert await at.call("send_message", text="twice") == ("sent", False)
        assert await sent(r, "birds") == ["once", "twice", "twice"]


async def test_outside_a_turn_nothing_is_done(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        async with turn_running(r, "birds") as at:
            pass
        said, failed = await at.call("send_message", text="late")
        assert failed
        assert "no turn of this group is running" in said
        assert (await at.ask("tools/list")).json()["result"]["tools"]
        assert await sent(r, "birds") == []


async def test_calls_without_end_are_refused_and_fill_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "MAX_CALLS", 3)
    async with rig(tmp_path) as r:
        async with turn_running(r, "birds") as at:
            with capture_logs() as logged:
                told = [await at.call("nonsense") for _ in range(6)]
            assert "more than 3 calls" in told[-1][0]
            assert [e["code"] for e in logged if e["event"] == "tool.refused"] == [
                "unknown_tool"
            ] * 3
        with capture_logs() as logged:
            assert (await at.call("nonsense"))[1]
        assert not [e for e in logged if e["event"] == "tool.refused"]


async def test_a_caller_speaks_for_the_group_of_its_socket_whatever_it_says(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r, turn_running(r, "birds") as at, turn_running(r, "fish") as other:
        forged = {"turn": "turn_of_fish", "group": "fish", "key": "k"}
        answer = await at.ask(
            "tools/call",
            name="send_message",
            arguments={"text": "mine"},
            _meta={"nanokimi": forged},
            group="fish",
        )
        assert answer.json()["result"]["content"][0]["text"] == "sent"
        said, failed = await at.call("send_message", text="x", group="fish")
        assert failed, said
        assert (await sent(r, "birds"), await sent(r, "fish")) == (["mine"], [])
        stolen = Door(at.path, other.token)  # another group's token opens nothing here
        assert (await stolen.ask("tools/list")).status_code == 401


async def test_a_turn_has_its_number_of_calls_and_no_more(tmp_path: Path) -> None:
    more = "[tools.send_message]\nper_turn = 2"
    async with rig(tmp_path, more=more) as r:
        async with turn_running(r, "birds") as at:
            told = await asyncio.gather(*(at.call("send_message", text=f"{n}") for n in range(5)))
            assert sorted(failed for _, failed in told) == [False] * 2 + [True] * 3
            assert len(await sent(r, "birds")) == 2
        async with turn_running(r, "birds") as at:
            assert await at.call("send_message", text="next turn") == ("sent", False)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b"[]", 400),
        (b'{"jsonrpc":"2.0","id":1}', 400),
        (b"x" * (server.MAX_BODY + 1), 413),
    ],
)
async def test_a_body_that_is_none_is_refused(tmp_path: Path, body: bytes, status: int) -> None:
    async with rig(tmp_path) as r, turn_running(r, "birds") as at:
        async with at.client() as client:
            headers = {"content-type": "application/json"}
            answer = await client.post("/mcp", content=body, headers=headers)
            assert answer.status_code == status, answer.text
        assert await at.call("send_message", text="still here") == ("sent", False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": 7},
        {"text": ""},
        {"text": "x" * 40_000},
        {"text": "a\0b"},
        {"text": "x", "more": 1},
        {},
    ],
)
async def test_wrong_arguments_are_said_to_the_model(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    async with rig(tmp_path) as r, turn_running(r, "birds") as at:
        said, failed = await at.call("send_message", **arguments)
        assert failed
        assert "arguments" in said
        assert "Traceback" not in said
        assert await sent(r, "birds") == []


async def test_half_a_character_is_refused_and_a_whole_one_is_not(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, turn_running(r, "birds") as at:
        async with at.client() as client:
            for text, works in ((r"\ud83d\ude00", True), (r"\ud83d", False)):
                params = {"name": "send_message", "arguments": {"text": "TEXT"}}
                call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
                body = json.dumps(call).replace("TEXT", text)
                headers = {"content-type": "application/json"}
                answer = await client.post("/mcp", content=body, headers=headers)
                ok = answer.status_code == 200 and not answer.json()["result"].get("isError")
                assert ok == works, answer.text
        assert await sent(r, "birds") == ["\U0001f600"]


async def test_only_posts_are_answered(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, turn_running(r, "birds") as at, at.client() as client:
        for method in ("GET", "DELETE", "PUT"):
            assert (await client.request(method, "/mcp")).status_code == 405
        assert (await client.post("/mcp/x", json={})).status_code == 404


async def test_a_tool_that_is_off_is_neither_shown_nor_run(tmp_path: Path) -> None:
    more = '[groups.birds.tools]\nsend_message = false\n[tools.schedule_task]\nrole = "admin"'
    async with rig(tmp_path, more=more) as r:
        async with turn_running(r, "birds") as at:
            names = [t["name"] for t in (await at.ask("tools/list")).json()["result"]["tools"]]
            assert not {"send_message", "schedule_task", "list_groups"} & set(names)
            for name, why in (
                ("send_message", "switched off"),
                ("list_tasks", "needs the role admin"),
                ("register_group", "switched off"),
                ("rm_rf", "no tool"),
            ):
                said, failed = await at.call(name, **({"text": "x"} if name[0] == "s" else {}))
                assert failed
                assert why in said, said
        async with turn_running(r, "fish") as at:
            assert await at.call("send_message", text="x") == ("sent", False)


async def test_an_admin_group_speaks_and_schedules_for_others(tmp_path: Path) -> None:
    more = '[groups.boss]\nadmin = true\n[people.roles]\nu1 = "admin"'
    async with rig(tmp_path, more=more) as r:
        await r.ask("birds", "!say hello")
        async with turn_running(r, "boss", sender_id="u1") as at:
            assert await at.call("send_message", text="from above", group="birds") == (
                "sent",
                False,
            )
            said, failed = await at.call("send_message", text="x", group="nobody")
            assert failed
            assert "there is no group 'nobody'" in said
            assert (await at.call("register_group", group="new birds"))[1] is False
            said, failed = await at.call("list_groups")
            assert ("'new birds' (registered)" in said, failed) == (True, False)
            said, failed = await at.call(
                "schedule_task", prompt="sing", kind="interval", when="1h", group="birds"
            )
            assert not failed, said
        assert await sent(r, "birds") == ["from above"]
        assert await sent(r, "boss") == []
        assert [i.task.prompt for i in await r.host.tasks.list("birds")] == ["sing"]


async def test_a_member_of_an_admin_group_acts_for_no_other(tmp_path: Path) -> None:
    more = "[groups.boss]\nadmin = true"
    async with rig(tmp_path, more=more) as r:
        await r.ask("birds", "!say hello")
        async with turn_running(r, "boss", sender_id="u1") as at:
            for tool in (t for t in (await at.ask("tools/list")).json()["result"]["tools"]):
                assert "group" not in tool["inputSchema"]["properties"], tool["name"]
            for name, more_ in (
                ("send_message", {"text": "from below"}),
                ("list_tasks", {}),
                ("schedule_task", {"prompt": "sing", "kind": "interval", "when": "1h"}),
            ):
                said, failed = await at.call(name, group="birds", **more_)
                assert failed, said
        assert await sent(r, "birds") == []
        assert await r.host.tasks.list("birds") == []


async def test_tasks_are_kept_by_their_tools(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, turn_running(r, "birds", sender_id="u1") as at:
        asked = {"prompt": "sing", "kind": "cron", "when": "0 9 * * *", "timezone": "Europe/Zurich"}
        said, failed = await at.call("schedule_task", key="k", **asked)
        again = await at.call("schedule_task", key="k", **asked)
        assert again == (said, failed)
        (info,) = await r.host.tasks.list("birds")
        assert info.task.created_by == "u1"
        id_ = info.task.id
        for name, state in (("pause_task", "paused"), ("resume_task", "active")):
            assert (await at.call(name, task_id=id_))[1] is False
            assert (await r.host.tasks.show(id_)).task.state == state
        said, failed = await at.call("update_task", task_id=id_, prompt="sing low")
        assert not failed, said
        said, failed = await at.call("list_tasks")
        assert (id_ in said, "sing low" in said, "Europe/Zurich" in said) == (True, True, True)
        assert (await at.call("cancel_task", task_id="task_of_others"))[1] is True
        assert (await at.call("cancel_task", task_id=id_))[1] is False
        assert await at.call("list_tasks") == ("there are no scheduled tasks", False)
        said, failed = await at.call("schedule_task", prompt="x", kind="cron", when="* * * * *")
        assert failed
        assert "often" in said
        assert "[tools." not in said
        asked["group"] = "plants"
        said, failed = await at.call("schedule_task", **asked)
        assert failed
        assert said == "only admins of an admin group may name another group. leave out group"


async def test_a_stranger_with_many_connections_gets_few(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, turn_running(r, "birds") as at:
        links = [await asyncio.open_unix_connection(str(at.path)) for _ in range(30)]
        dropped = 0
        for reader, _ in links[10:]:
            async with asyncio.timeout(10):
                try:
                    dropped += await reader.read(1) == b""
                except ConnectionError:
                    dropped += 1
        assert dropped == 20
        for _, writer in links:
            writer.close()
