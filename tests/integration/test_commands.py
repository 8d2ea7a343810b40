"""Chat commands in a whole host: answered by the host itself, once, whatever runs or dies."""

import asyncio
import json
import sqlite3
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rig import Rig, log_in, rig, running, write_config
from served import LISTEN, Served

from runner.demo.provider import DemoProvider
from runner.errors import NanokimiError
from runner.settings.layout import Layout

PEOPLE = """
[models.k2]
provider = "demo"
model = "k3-256k"
max_context_size = 262144

[people]
roles = { "boss" = "admin" }

[groups.ops]
admin = true
"""
LONG = "!think so\n!slow 0.3\n!chunks 1000\n!say " + "word " * 2000


@pytest.fixture
async def r(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path, host="max_containers = 1\nsteer = false", more=PEOPLE) as made:
        yield made


async def tell(r: Rig, group: str, text: str, **more: Any) -> str:
    """A command's answer, which came without a sandbox and without the model."""
    before = len(r.provider.chats())
    events = await r.say(group, text, **more)
    kinds = ["message.accepted", "turn.started", "text.delta", "turn.finished"]
    assert [e.kind for e in events] == kinds
    assert events[0].data["command"] == events[1].data["command"] == events[3].data["command"]
    assert events[2].data["text"] == events[3].data["text"]
    assert len(r.provider.chats()) == before
    return str(events[-1].data["text"])


async def post(r: Rig, group: str, text: str, **more: Any) -> dict[str, Any]:
    path = f"/api/groups/{group}/messages"
    told: dict[str, Any] = await r.api.call("POST", path, json={"text": text, **more})
    return told


async def busy(r: Rig, group: str, sender: str) -> str:
    """A turn that works; its id."""
    await post(r, group, LONG, sender_id=sender, sender=sender.title())
    await r.until(group, "text.delta")
    turn = r.host.running(group)
    assert turn is not None
    return turn.id


async def ended(r: Rig, turn_id: str) -> str:
    async with asyncio.timeout(30):
        async for event in r.host.events.follow((await r.host.store.turn(turn_id)).group, 0):
            if event.turn_id == turn_id and event.kind in ("turn.finished", "turn.failed"):
                break
    return str((await r.host.store.turn(turn_id)).state)


def rows(layout: Layout, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(layout.database) as db:
        return db.execute(query).fetchall()


async def test_help_is_answered_without_a_sandbox_and_without_the_model(r: Rig) -> None:
    told = await tell(r, "birds", "/help", sender_id="ada")
    assert "/stop" in told
    assert "/reset" not in told
    assert "/reset" in await tell(r, "birds", "/help@kimibot", sender_id="boss")
    assert await r.host.spawner.list() == []


async def test_the_202_names_the_command_and_wait_gives_its_answer(r: Rig) -> None:
    told = await post(r, "birds", "/status")
    assert told["command"] == "status"
    waited = await r.api.call(
        "POST", "/api/groups/birds/messages", params={"wait": 20}, json={"text": "/status"}
    )
    assert waited["status"] == "done"
    assert waited["text"].startswith("Idle.")
    assert waited["command"] == "status"
    assert (await post(r, "birds", "!say hi"))["command"] == ""


async def test_who_asked_stops_the_turn_and_the_next_one_runs(r: Rig) -> None:
    turn = await busy(r, "birds", "ada")
    assert await tell(r, "birds", "/stop", sender_id="ada") == "Stopped."
    assert await ended(r, turn) == "cancelled"
    assert await r.ask("birds", "!say again") == "again"


async def test_a_stranger_does_not_stop_what_another_asked_and_an_admin_does(r: Rig) -> None:
    turn = await busy(r, "birds", "ada")
    assert "may stop it" in await tell(r, "birds", "/stop", sender_id="eve")
    assert "may stop it" in await tell(r, "birds", "/stop")
    status = await tell(r, "birds", "/status", sender_id="eve")
    assert status.startswith("Working for ")
    assert "what Ada asked" in status
    assert (await r.host.store.turn(turn)).state == "running"
    assert await tell(r, "birds", "/stop", sender_id="boss") == "Stopped."
    assert await ended(r, turn) == "cancelled"


async def test_who_joins_a_turn_may_not_stop_it(tmp_path: Path) -> None:
    async with rig(tmp_path, more=PEOPLE) as r:
        turn = await busy(r, "birds", "ada")
        await post(r, "birds", "me too", sender_id="eve")
        await r.until("birds", "turn.steered")
        assert "may stop it" in await tell(r, "birds", "/stop", sender_id="eve")
        assert await tell(r, "birds", "/stop", sender_id="ada") == "Stopped."
        assert await ended(r, turn) == "cancelled"


async def test_a_stop_leaves_what_waits_in_its_order(r: Rig) -> None:
    await busy(r, "birds", "ada")
    for n in (1, 2):
        await post(r, "birds", f"!say {n}", sender_id="eve")
    told = await tell(r, "birds", "/stop", sender_id="ada")
    assert told == "Stopped.\n2 messages wait, and come next."
    async with asyncio.timeout(30):
        while rows(r.layout, "select 1 from messages where state in ('queued', 'claimed')"):
            await asyncio.sleep(0.05)
    states = rows(r.layout, "select state from messages order by seq")
    assert states == [("dropped",), ("answered",), ("answered",), ("answered",)]


async def test_nothing_to_stop_is_an_answer(r: Rig) -> None:
    assert await tell(r, "birds", "/stop") == "Nothing is running."


async def test_commands_do_not_wait_for_a_slot_that_another_group_has(r: Rig) -> None:
    await busy(r, "plants", "ada")
    await post(r, "birds", "!say hi", sender_id="ada")
    assert "Waiting: 1 message." in await tell(r, "birds", "/status", sender_id="ada")
    assert await tell(r, "plants", "/stop", sender_id="ada") == "Stopped."


async def test_a_held_turn_says_so_and_can_be_stopped(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider)
        async with running(layout, provider) as r:
            await post(r, "birds", "!say hi", sender_id="ada")
            await r.until("birds", "turn.failed")
            told = await tell(r, "birds", "/status", sender_id="ada")
            assert told.startswith("Held for ")
            assert "has to log in" in told
            turn = r.host.running("birds")
            assert turn is not None
            assert await tell(r, "birds", "/stop", sender_id="ada") == "Stopped."
            assert await ended(r, turn.id) == "cancelled"
            log_in(layout, provider)
            assert await r.ask("birds", "!say now") == "now"


async def test_a_reset_really_forgets_and_keeps_the_files(r: Rig) -> None:
    await r.ask("birds", "remember the word heron")
    await r.ask("birds", "write 'kept' to notes.txt and read it back")
    assert await r.ask("birds", "which word?") == "The word was heron."
    assert "admins" in await tell(r, "birds", "/reset", sender_id="ada")
    assert await r.ask("birds", "which word?") == "The word was heron."
    assert (await tell(r, "birds", "/reset", sender_id="boss")).startswith("Forgotten")
    assert "not told" in await r.ask("birds", "which word?")
    assert b"heron" not in r.provider.chats()[-1].body
    assert "kept" in await r.ask("birds", "read notes.txt")


async def test_a_reset_ends_the_running_turn_and_that_is_not_remembered(r: Rig) -> None:
    turn = await busy(r, "birds", "ada")
    assert (await tell(r, "birds", "/reset", sender_id="boss")).startswith("Forgotten")
    assert await ended(r, turn) == "cancelled"
    assert await r.ask("birds", "!say again") == "again"
    assert b"word word" not in r.provider.chats()[-1].body


async def test_a_model_is_chosen_for_the_next_answer_and_kept_over_a_restart(
    tmp_path: Path,
) -> None:
    def model_asked(r: Rig) -> str:
        return str(json.loads(r.provider.chats()[-1].body)["model"])

    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider, more=PEOPLE)
        log_in(layout, provider)
        async with running(layout, provider) as r:
            await r.ask("birds", "remember the word heron")
            assert model_asked(r) == "kimi-for-coding"
            assert "admins" in await tell(r, "birds", "/model k2", sender_id="ada")
            told = await tell(r, "birds", "/model", sender_id="boss")
            assert told == "Model: kimi-code.\nThere are: k2, kimi-code."
            told = await tell(r, "birds", "/model k3", sender_id="boss")
            assert told == "There is no model k3.\nThere are: k2, kimi-code."
            told = await tell(r, "birds", "/model k2", sender_id="boss")
            assert told.startswith("Model: k2 (chosen here).")
            assert await r.ask("birds", "which word?") == "The word was heron."
            assert model_asked(r) == "k3-256k"
            assert (await r.api.call("GET", "/api/groups/birds"))["model"] == "k2"
        async with running(layout, provider) as r:
            assert "Model: k2 (chosen here)." in await tell(r, "birds", "/status")
            assert await r.ask("birds", "which word?") == "The word was heron."
            assert model_asked(r) == "k3-256k"
            told = await tell(r, "birds", "/model default", sender_id="boss")
            assert told.startswith("Model: kimi-code.")
            await r.ask("birds", "which word?")
            assert model_asked(r) == "kimi-for-coding"


async def test_usage_is_what_the_ledger_has_of_this_group(r: Rig) -> None:
    await r.ask("plants", "!say hi")
    assert (await tell(r, "birds", "/usage", sender_id="boss")).startswith("Today: nothing.")
    await r.ask("birds", "!say hi")
    told = await tell(r, "birds", "/usage", sender_id="boss")
    assert told.startswith("Today: 1 call, ")
    assert "tokens" in told


async def test_an_unknown_slash_word_and_talk_reach_the_agent_framed(r: Rig) -> None:
    for text in ("/yolo", "/stop now please", "  /compact"):
        await r.ask("birds", text)
        said = json.loads(r.provider.chats()[-1].body)["messages"][-1]["content"]
        said = said if isinstance(said, str) else said[-1]["text"]
        assert said.startswith("<message ")
        assert text.strip() in said


async def test_commands_are_never_context_for_the_agent(r: Rig) -> None:
    await tell(r, "birds", "/status", sender_id="ada")
    await r.ask("birds", "!say hi")
    assert b"/status" not in r.provider.chats()[-1].body


async def test_the_same_command_twice_is_one(r: Rig) -> None:
    turn = await busy(r, "birds", "ada")
    first = await post(r, "birds", "/stop", sender_id="ada", external_id="x1")
    assert await ended(r, turn) == "cancelled"
    second = await busy(r, "birds", "ada")
    again = await post(r, "birds", "/stop", sender_id="ada", external_id="x1")
    assert again["message_id"] == first["message_id"]
    assert again["duplicate"] is True
    assert again["command"] == "stop"
    assert [e.kind for e in await r.say("birds", "/stop", external_id="x1")] == ["turn.finished"]
    assert (await r.host.store.turn(second)).state == "running"
    turns = rows(r.layout, "select count(*) from turns where kind = 'command'")
    assert turns == [(1,)]


async def test_an_admin_group_commands_others_and_an_ordinary_one_does_not(r: Rig) -> None:
    turn = await busy(r, "birds", "ada")
    assert (await tell(r, "ops", "/status birds", sender_id="boss")).startswith("Working")
    assert "admins" in await tell(r, "ops", "/stop birds", sender_id="eve")
    assert "there is no group" in await tell(r, "ops", "/reset brids", sender_id="boss")
    assert (await r.host.store.turn(turn)).state == "running"
    assert await tell(r, "ops", "/stop birds", sender_id="boss") == "Stopped."
    assert await ended(r, turn) == "cancelled"
    assert (await post(r, "plants", "/stop birds", sender_id="boss"))["command"] == ""
    assert (await tell(r, "ops", "/model birds k2", sender_id="boss")).startswith("Model: k2")
    assert (await r.host.store.group("birds")).model == "k2"
    assert (await r.host.store.group("ops")).model == ""


async def test_a_group_that_is_no_admin_any_more_is_refused(r: Rig) -> None:
    await r.ask("birds", "!say hi")
    config = r.layout.config
    reads = r.host.commands.read

    def late(group: str, text: str) -> Any:
        command = reads(group, text)
        config.write_text(config.read_text().replace("admin = true", "admin = false"))
        return command

    r.host.commands.read = late  # type: ignore[method-assign]
    known = r.host.commands._do

    async def after_the_reload(*given: Any) -> Any:
        async with asyncio.timeout(20):
            while r.host.settings.for_group("ops").admin:
                await asyncio.sleep(0.02)
        return await known(*given)

    r.host.commands._do = after_the_reload  # type: ignore[method-assign]
    told = await tell(r, "ops", "/reset birds", sender_id="boss")
    assert "may not manage other groups" in told


async def test_too_many_commands_at_one_time_are_refused(
    r: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()
    known = r.host.commands._do

    async def slow(*given: Any) -> Any:
        await release.wait()
        return await known(*given)

    monkeypatch.setattr(r.host.commands, "_do", slow)
    for _ in range(20):
        await post(r, "birds", "/status")
    with pytest.raises(NanokimiError) as refused:
        await post(r, "birds", "/status")
    assert refused.value.code == "queue_full"
    assert (await post(r, "plants", "/status"))["command"] == "status"
    release.set()
    assert (await tell(r, "plants", "/status")).startswith("Idle.")


async def test_a_deleted_group_takes_its_commands_along(r: Rig) -> None:
    await r.ask("birds", "!say hi")
    release = asyncio.Event()
    known = r.host.commands._do

    async def slow(*given: Any) -> Any:
        await release.wait()
        return await known(*given)

    r.host.commands._do = slow  # type: ignore[method-assign]
    await post(r, "birds", "/reset", sender_id="boss")
    await r.api.call("DELETE", "/api/groups/birds")
    release.set()
    assert (await tell(r, "plants", "/status")).startswith("Idle.")
    assert rows(r.layout, "select count(*) from turns where group_id = 'birds'") == [(0,)]


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from runner.host import command_desk
    from runner.store import command_turns

    point = sys.argv.pop(1)

    def die(*_a, **_k):
        os.kill(os.getpid(), signal.SIGKILL)

    if point == "before":      # written, and nothing done
        command_desk.CommandDesk._do = die
    elif point == "between":   # done, and not answered
        command_desk.CommandDesk._answer = die
    from runner.__main__ import main
    main()
    """
)


@pytest.mark.parametrize("point", ["before", "between"])
@pytest.mark.parametrize("command", ["/stop", "/reset", "/model k2"])
async def test_a_killed_host_carries_out_each_command_once(
    tmp_path: Path, point: str, command: str
) -> None:
    layout = Layout(tmp_path / "data")
    program = tmp_path / "killed.py"
    program.write_text(KILLED)
    async with DemoProvider() as provider:
        write_config(layout, provider, host="steer = false", more=f"{PEOPLE}\n{LISTEN}")
        log_in(layout, provider)
        served = Served(layout, program=(str(program), point))
        await served.start()
        try:
            api = served.api()
            path = "/api/groups/birds/messages"
            body = {"text": LONG, "sender_id": "boss"}
            working = api.send("birds", body)
            async with asyncio.timeout(30):
                async for event in working:
                    if event.kind == "text.delta":
                        break
            await working.aclose()
            with pytest.raises(NanokimiError):
                body = {"text": command, "sender_id": "boss", "external_id": "c1"}
                await api.call("POST", path, params={"wait": 30}, json=body)
            await served.died()
            await api.aclose()
            assert rows(layout, "select state from turns where kind = 'command'") == [("running",)]

            await served.start(program=("-m", "runner"))
            api = served.api()
            told = await api.call("POST", path, params={"wait": 30}, json=body)
            assert told["status"] == "done"
            # "Stopped.", or "Stopping": the turn was just being taken up again.
            expected = {"/stop": "Stopp", "/reset": "Forgotten", "/model k2": "Model: k2"}
            assert told["text"].startswith(expected[command])
            if command == "/model k2":
                await api.call("POST", "/api/groups/birds/cancel")
            turn = rows(layout, "select id from turns where kind = 'chat'")[0][0]
            async with asyncio.timeout(30):
                while rows(layout, f"select state from turns where id = '{turn}'") != [
                    ("cancelled",)
                ]:
                    await asyncio.sleep(0.05)
            kinds = rows(layout, "select kind, state from turns order by started_at")
            assert kinds == [("chat", "cancelled"), ("command", "done")]
            ends = rows(layout, "select kind, count(*) from events group by kind")
            assert dict(ends)["turn.finished"] == 2
            body = {"text": "!say on we go", "sender_id": "ada"}
            told = await api.call("POST", path, params={"wait": 30}, json=body)
            assert told["text"] == "on we go"
            if command == "/reset":
                assert b"word word" not in provider.chats()[-1].body
            await api.aclose()
        finally:
            await served.stop()
