"""Messages that come while a turn runs."""

import asyncio
import json
from pathlib import Path

import pytest
from rig import Rig, log_in, rig, running, write_config
from structlog.testing import capture_logs

from runner.api.client import group_path
from runner.demo.provider import DemoProvider
from runner.errors import NanokimiError
from runner.model import MessageState, TurnState
from runner.settings.layout import Layout

# A tool that takes until a file is there: while it runs, a test does what it likes.
UNTIL_GO = "!call bash " + json.dumps(
    {"command": "echo x >> begun; while [ ! -e go ]; do sleep 0.02; done"}
)


def go(r: Rig) -> None:
    (workspace,) = (r.layout.root / "groups").iterdir()
    (workspace / "go").touch()


async def post(r: Rig, text: str, path: str = "messages", **more: object) -> dict[str, object]:
    body = {"text": text, **more}
    return dict(await r.api.call("POST", f"{group_path('birds')}/{path}", json=body))


async def states(r: Rig) -> dict[str, MessageState]:
    return {m.text: m.state for m in await r.host.store.messages("birds")}


async def test_a_message_during_a_turn_joins_it_and_the_model_hears_it_in_the_same_turn(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        first = asyncio.create_task(r.say("birds", f"{UNTIL_GO}\n!say one"))
        await r.until("birds", "tool.started")
        second = asyncio.create_task(r.say("birds", "!say two", sender="Bo"))
        steered = await r.until("birds", "turn.steered")
        go(r)
        one, two = await first, await second
        assert one[-1].data["turn_id"] == two[-1].data["turn_id"] == steered.data["turn_id"]
        assert two[-1].data["text"] == "two"
        heard = r.provider.chats()[-1].json["messages"]
        assert 'sender="Bo"' in heard[-1]["content"]
        assert heard[-1]["role"] == "user"
        messages = await r.host.store.messages("birds")
        assert [(m.state, m.steered) for m in messages] == [
            (MessageState.ANSWERED, False),
            (MessageState.ANSWERED, True),
        ]


async def test_context_does_not_join_and_is_there_in_the_next_turn(tmp_path: Path) -> None:
    async with rig(tmp_path, more='[groups.birds]\ntrigger = "@kimi"') as r:
        first = asyncio.create_task(r.ask("birds", f"@kimi\n{UNTIL_GO}\n!say one"))
        await r.until("birds", "tool.started")
        await post(r, "only context")
        await post(r, "@kimi also this")
        await r.until("birds", "turn.steered")
        go(r)
        await first
        assert (await states(r))["only context"] is MessageState.QUEUED
        await r.ask("birds", "@kimi and now?")
        assert "only context" in r.provider.chats()[-1].json["messages"][-1]["content"]


async def test_without_steering_it_waits_for_the_next_turn(tmp_path: Path) -> None:
    async with rig(tmp_path, host="steer = false") as r:
        first = asyncio.create_task(r.say("birds", f"{UNTIL_GO}\n!say one"))
        await r.until("birds", "tool.started")
        second = asyncio.create_task(r.say("birds", "!say two"))
        await r.until("birds", "message.accepted")
        go(r)
        assert (await first)[-1].data["text"] == "one"
        assert (await second)[-1].data["text"] == "two"
        turns = {m.turn_id for m in await r.host.store.messages("birds")}
        assert len(turns) == 2


async def test_a_message_that_came_too_late_for_the_turn_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It joins in the store; the agent refuses; the turn's end gives it back."""
    from runner.host.session import AgentSession

    async def refuse(self: AgentSession, message_id: str, text: str) -> None:
        raise NanokimiError("the turn has ended", code="no_turn")

    monkeypatch.setattr(AgentSession, "steer", refuse)
    async with rig(tmp_path) as r:
        first = asyncio.create_task(r.say("birds", f"{UNTIL_GO}\n!say one"))
        await r.until("birds", "tool.started")
        second = asyncio.create_task(r.say("birds", "!say two"))
        await r.until("birds", "turn.steered")
        go(r)
        one, two = await first, await second
        assert one[-1].data["text"] == "one"
        assert one[-1].data["released"]
        assert two[-1].data["text"] == "two"
        assert one[-1].data["turn_id"] != two[-1].data["turn_id"]
        assert set((await states(r)).values()) == {MessageState.ANSWERED}
        assert len(r.provider.chats()) == 3


async def test_a_cancel_ends_what_joined_and_the_agent_has_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.host.session import AgentSession

    async def refuse(self: AgentSession, message_id: str, text: str) -> None:
        raise NanokimiError("not now", code="no_turn")

    monkeypatch.setattr(AgentSession, "steer", refuse)
    async with rig(tmp_path) as r:
        first = asyncio.create_task(r.say("birds", f"{UNTIL_GO}\n!say one"))
        await r.until("birds", "tool.started")
        second = asyncio.create_task(r.say("birds", "!say two"))
        await r.until("birds", "turn.steered")
        await r.api.call("POST", f"{group_path('birds')}/cancel")
        one, two = await asyncio.wait_for(asyncio.gather(first, second), 20)
        assert one[-1].data["status"] == two[-1].data["status"] == "cancelled"
        assert one[-1].data["turn_id"] == two[-1].data["turn_id"]
        assert set((await states(r)).values()) == {MessageState.DROPPED}
        assert await r.ask("birds", "!say three") == "three"


async def test_the_next_host_steers_again_what_had_joined(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider, host="")
        text = layout.config.read_text().replace('grace = "5s"', 'grace = "0s"')
        layout.config.write_text(text)
        log_in(layout, provider)
        with capture_logs() as logs:
            async with running(layout, provider) as r:
                work = asyncio.create_task(r.say("birds", f"{UNTIL_GO}\n!say one"))
                await r.until("birds", "tool.started")
                await post(r, "!say two")
                await r.until("birds", "turn.steered")
        await asyncio.gather(work, return_exceptions=True)
        (left,) = [one for one in logs if one["event"] == "turn.left_open"]
        (count,) = [one["count"] for one in logs if one["event"] == "host.turns_left_open"]
        async with running(layout, provider) as r:
            (_, second) = await r.host.store.messages("birds")
            assert second.turn_id is not None
            assert (left["group"], left["turn"], count) == ("birds", second.turn_id, 1)
            async with asyncio.timeout(30):
                while (turn := await r.host.store.turn(second.turn_id)).finished_at is None:
                    await asyncio.sleep(0.02)
            assert (turn.state, turn.text) == (TurnState.DONE, "two")
            assert set((await states(r)).values()) == {MessageState.ANSWERED}
        said = [m["content"] for m in provider.chats()[-1].json["messages"] if m["role"] == "user"]
        assert sum("!say two" in s for s in said) == 1


async def test_the_steer_call_joins_what_runs_and_refuses_when_nothing_does(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        with pytest.raises(NanokimiError) as e:
            await post(r, "!say two", "steer")
        assert e.value.code == "not_found"
        await r.ask("birds", "!say zero")
        with pytest.raises(NanokimiError) as e:
            await post(r, "!say two", "steer")
        assert e.value.code == "nothing_running"
        assert len(await r.host.store.messages("birds")) == 1
        first = asyncio.create_task(r.say("birds", f"{UNTIL_GO}\n!say one"))
        await r.until("birds", "tool.started")
        told = await post(r, "!say two", "steer", sender="Bo")
        assert told["steered"] is True
        go(r)
        last = (await first)[-1]
        assert (last.data["text"], last.data["turn_id"]) == ("two", told["turn_id"])


async def test_the_answer_to_a_question_goes_to_who_asked_and_not_to_the_model(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, more='[groups.birds]\ntrigger = "@kimi"') as r:
        first = asyncio.create_task(r.say("birds", f"@kimi\n{UNTIL_GO}\n!say one"))
        await r.until("birds", "tool.started")
        running_now = r.host._dispatcher.current("birds")
        assert running_now is not None
        last = (await r.host.store.messages("birds"))[-1].seq
        answer = r.host._dispatcher.expect(running_now[0], last)
        with pytest.raises(NanokimiError) as e:
            r.host._dispatcher.expect(running_now[0], last)
        assert e.value.code == "question_open"
        await post(r, "the blue one")
        await post(r, "@kimi and hurry")
        message = await asyncio.wait_for(answer, 20)
        assert message.text == "the blue one"
        go(r)
        await first
        assert set((await states(r)).values()) == {MessageState.ANSWERED}
        heard = json.dumps(r.provider.chats()[-1].json["messages"])
        assert "hurry" in heard
        assert "blue" not in heard


async def test_a_task_has_a_conversation_of_its_own_in_the_same_sandbox(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.ask("birds", "remember the word heron")
        sandbox = r.host.pool.warm()["birds"].sandbox.info
        await say_in(r, "task:1", "remember the word robin")
        await say_in(r, "task:1", "which word?")
        assert b"heron" not in r.provider.chats()[-1].body
        assert await r.ask("birds", "which word?") == "The word was heron."
        assert r.host.pool.warm()["birds"].sandbox.info == sandbox
        await r.api.call("POST", f"{group_path('birds')}/stop")
        assert await say_in(r, "task:1", "which word did I tell you?") == "The word was robin."


async def say_in(r: Rig, session: str, text: str) -> str:
    """A message of another conversation, as a schedule makes it; its answer."""
    from runner.model import Event, Message

    id_ = f"m{len(await r.host.store.messages('birds'))}"
    with r.host.events.writing("birds") as event_id:
        event = Event(event_id, "birds", "message.accepted", {}, message_ids=(id_,))
        message = Message(id_, "birds", 0, text, session=session, channel="http")
        await r.host.store.accept(message, 100, event)
        r.host.events.show(event)
    r.host._dispatcher.wake("birds")
    async with asyncio.timeout(30):
        while (m := await r.host.store.message(id_)).state is not MessageState.ANSWERED:
            await asyncio.sleep(0.02)
    assert m.turn_id is not None
    return (await r.host.store.turn(m.turn_id)).text
