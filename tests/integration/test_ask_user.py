"""``ask_user``: a turn asks the chat, and goes on with what somebody says."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from followed import until
from rig import Rig, log_in, rig, write_config
from served import LISTEN, Served
from tool_calls import turn_running

from runner.api.client import group_path
from runner.demo.provider import DemoProvider
from runner.errors import TemporaryError
from runner.host.tools.ask import NOBODY, shown, waiting_time
from runner.model import Event, Message
from runner.settings.layout import Layout

ASK = '!call ask_user {"question": "which bird?", "options": ["heron", "owl"]}\n!say {last}'


async def post(r: Rig, group: str, **message: Any) -> str:
    path = f"{group_path(group)}/messages"
    return str((await r.api.call("POST", path, json=message))["message_id"])


async def messages(r: Rig, group: str) -> list[tuple[str, str]]:
    found = await r.api.call("GET", f"{group_path(group)}/messages")
    return [(m["text"], m["state"]) for m in found["messages"]]


async def test_the_next_message_is_the_answer_and_no_turn_of_its_own(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asking = asyncio.create_task(r.say("birds", ASK, sender="Ada"))
        asked = await r.until("birds", "question.asked")
        assert (asked.data["question"], asked.data["options"]) == ("which bird?", ["heron", "owl"])
        await post(r, "birds", text="the <heron>", sender="Bo")
        said = (await asking)[-1].data["text"]
        assert 'sender="Bo"' in said
        assert "the &lt;heron&gt;" in said
        assert await messages(r, "birds") == [(ASK, "answered"), ("the <heron>", "answered")]
        kinds = [e["kind"] for e in await r.events("birds")]
        assert (kinds.count("turn.started"), kinds.count("question.asked")) == (1, 1)


async def test_an_answer_stays_part_of_its_turn_when_the_end_has_to_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as r:
        finish, refusals = r.host.store.finish, iter([TemporaryError("the database is away")])

        async def refused_once(*args: Any) -> Event | None:
            for refusal in refusals:
                raise refusal
            return await finish(*args)

        monkeypatch.setattr(r.host.store, "finish", refused_once)
        asking = asyncio.create_task(r.say("birds", ASK))
        await r.until("birds", "question.asked")
        await post(r, "birds", text="the heron")
        ended = (await asking)[-1].data
        assert "the heron" in ended["text"]
        assert "released" not in ended
        assert await messages(r, "birds") == [(ASK, "answered"), ("the heron", "answered")]


async def test_what_wakes_nobody_else_answers_a_question(tmp_path: Path) -> None:
    async with rig(tmp_path, more='[groups.birds]\ntrigger = "@kimi"') as r:
        asking = asyncio.create_task(r.say("birds", f"@kimi\n{ASK}"))
        await r.until("birds", "question.asked")
        await post(r, "birds", text="an owl")
        assert "an owl" in (await asking)[-1].data["text"]


async def test_who_answers_lends_no_rights_and_gets_none(tmp_path: Path) -> None:
    more = '[groups.birds]\ntrigger = "@kimi"\nadmin = true\n[people.roles]\nada = "admin"'
    async with (
        rig(tmp_path, more=more) as r,
        turn_running(r, "birds", direct=True, sender_id="ada") as at,
    ):
        assert not (await at.call("register_group", group="one"))[1]
        asking = asyncio.create_task(at.call("ask_user", question="which other?"))
        await r.until("birds", "question.asked")
        await post(r, "birds", text="mine", sender_id="bo")  # it wakes nobody
        assert "mine" in (await asking)[0]
        said, failed = await at.call("register_group", group="mine")
        assert failed
        assert "needs the role admin" in said
        await at.call("schedule_task", prompt="sing", kind="interval", when="1h")
        assert [i.task.created_by for i in await r.host.tasks.list("birds")] == ["bo"]


async def test_nobody_answering_is_a_result(tmp_path: Path) -> None:
    more = '[tools.ask_user]\ntimeout = "100ms"'
    async with rig(tmp_path, more=more) as r:
        assert await r.ask("birds", ASK) == NOBODY
        assert await r.ask("birds", "!say later") == "later"  # and nothing waits any more


async def test_a_turn_keeps_time_to_say_that_nobody_answered(tmp_path: Path) -> None:
    async with rig(tmp_path, host='turn_timeout = "8s"') as r:
        assert await r.ask("birds", ASK) == NOBODY


@pytest.mark.parametrize(
    ("timeout", "turn_timeout", "left", "wait"),
    [(600, 1800, 1800, 600), (600, 300, 300, 240), (600, 1800, 100, 40), (600, 1800, 10, 0)],
)
def test_the_wait_ends_before_the_turn_does(
    timeout: float, turn_timeout: float, left: float, wait: float
) -> None:
    assert waiting_time(timeout, turn_timeout, left) == wait


def test_options_are_numbered_for_chats_without_buttons() -> None:
    assert shown("which?", ["a", "b"]) == "which?\n1. a\n2. b"
    assert shown("which?", []) == "which?"


async def test_a_task_with_a_conversation_of_its_own_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        run = Message("run", "birds", 0, ASK, session="task:1", channel="http")
        with r.host.events.writing("birds") as event_id:
            accepted = Event(event_id, "birds", "message.accepted", {}, message_ids=(run.id,))
            await r.host.store.accept(run, 100, accepted)
            r.host.events.show(accepted)
        r.host._dispatcher.wake("birds")
        done = await r.until("birds", "turn.finished")
        assert "can ask nobody" in done.data["text"]
        assert "question.asked" not in [e["kind"] for e in await r.events("birds")]


async def test_a_cancelled_turn_asks_no_more(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asking = asyncio.create_task(r.say("birds", ASK))
        await r.until("birds", "question.asked")
        await r.host.cancel("birds")
        assert (await asking)[-1].data["status"] == "cancelled"
        assert await r.ask("birds", "!say next") == "next"


@pytest.mark.parametrize(
    ("end", "answered"), [("kill", "before"), ("kill", "after"), ("stop", "after")]
)
async def test_a_host_that_ends_asks_once_and_takes_the_answer(
    tmp_path: Path, end: str, answered: str
) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider, more=LISTEN)
        log_in(layout, provider)
        host = Served(layout)
        await host.start()
        try:
            await say(host, ASK)
            await until(host, "birds", "question.asked")
            if answered == "before":  # it may have joined the turn, but the agent knows nothing
                await say(host, "the heron")
            await (host.kill() if end == "kill" else host.stop())
            await host.start()
            if answered == "after":
                await until(host, "birds", "turn.started", attempt=2)
                await say(host, "the heron")
            events = await until(host, "birds", "turn.finished")
        finally:
            await host.stop()
    assert "the heron" in events[-1][1]["text"]
    assert [k for k, _ in events].count("question.asked") == 1
    assert [k for k, _ in events].count("turn.finished") == 1


async def say(host: Served, text: str) -> None:
    api = host.api()
    try:
        await api.call("POST", f"{group_path('birds')}/messages", json={"text": text})
    finally:
        await api.aclose()
