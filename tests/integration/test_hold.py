"""A provider that is away costs time, never a message."""

import asyncio
from pathlib import Path

import pytest
from receiver import Receiver
from rig import Rig, log_in, rig, running, write_config

from runner.api.client import group_path
from runner.channels.secret import webhook_secret
from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.errors import ENGINE_SILENT, EngineError, ImageMissingError, NanokimiError
from runner.host import decide
from runner.model import MessageState
from runner.sandbox.spawner import Sandbox, SandboxSpec
from runner.settings.layout import Layout

GROUPS = [f"g{n}" for n in range(5)]
EACH = 20
DOWN = Fault(status=503, message="down for maintenance")


async def test_a_hundred_messages_wait_for_a_provider_over_a_restart_and_are_answered_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "LONGEST_HOLD_DELAY", 2.0)
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider, host="max_attempts = 2\nmax_containers = 5")
        log_in(layout, provider)
        provider.faults.add(DOWN, times=5000)
        async with running(layout, provider) as r:
            for n in range(EACH):
                for group in GROUPS:
                    await r.api.call(
                        "POST", f"{group_path(group)}/messages", json={"text": f"!say {n}"}
                    )
            for group in GROUPS:
                failed = await r.until(group, "turn.failed")
                assert (failed.data["held"], failed.data["will_retry"]) == (True, True)
                assert failed.data["code"] == "provider_unavailable"
                # People can do nothing about it, so they read neither of HTTP nor to try again.
                assert failed.data["message"] == (
                    "The model cannot be reached now. "
                    "Your message is kept and is answered as soon as it works again."
                )
                assert failed.data["hint"] == "nothing needs to be sent again"
                assert "503" in failed.data["reason"]
        async with running(layout, provider) as r:
            async with asyncio.timeout(60):
                while min([excused(r, g) for g in GROUPS]) < 4:
                    await asyncio.sleep(0.05)
            provider.faults.clear()
            async with asyncio.timeout(60):
                while await r.host.store.count_unanswered():
                    await asyncio.sleep(0.05)
            for group in GROUPS:
                messages = await r.host.store.messages(group)
                assert [m.state for m in messages] == [MessageState.ANSWERED] * EACH
                told = [e for e in await r.events(group) if e["kind"] == "turn.failed"]
                assert len(told) == 1  # the chat is told once, not at every try
                seen = [e["turn_id"] for e in await r.events(group) if e["kind"] == "turn.finished"]
                turns = list(dict.fromkeys(m.turn_id for m in messages))
                assert turns == seen
        heard: dict[str, list[str]] = {}
        for chat in provider.chats():
            if chat.status == 200:
                said = [m["content"] for m in chat.json["messages"] if m["role"] == "user"]
                heard[chat.json["prompt_cache_key"]] = said
        for said in heard.values():
            words = [w for w in "\n".join(said).splitlines() if w.startswith("!say")]
            assert words == [f"!say {n}" for n in range(EACH)]
        assert len(heard) == len(GROUPS)


def excused(r: Rig, group: str) -> int:
    run = r.host.running(group)
    return run.excused if run is not None else 0


async def test_one_answer_wakes_all_that_wait_for_the_same_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "FIRST_DELAY", 50.0)
    async with rig(tmp_path) as r:
        r.provider.faults.add(DOWN, times=2)
        held = asyncio.create_task(r.ask("birds", "!say one"))
        await r.until("birds", "turn.failed")
        monkeypatch.setattr(decide, "FIRST_DELAY", 0.5)  # for the others
        hint = await r.api.call("POST", f"{group_path('birds')}/messages", json={"text": "!say x"})
        assert "provider_unavailable" in hint["hint"]
        assert await r.ask("plants", "!say two") == "two"
        # The message that came meanwhile joined the turn, or has one of its own.
        assert set((await asyncio.wait_for(held, 20)).split()) <= {"one", "x"}
        async with asyncio.timeout(20):
            while await r.host.store.count_unanswered():
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "error",
    [
        ImageMissingError("the image is not there", hint="run `nanokimi build`"),
        EngineError("the engine did not answer", hint="start it", code=ENGINE_SILENT),
    ],
)
async def test_what_has_no_place_to_run_is_held_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: NanokimiError
) -> None:
    monkeypatch.setattr(decide, "FIRST_DELAY", 0.05)
    async with rig(tmp_path, host="max_attempts = 1") as r:
        ensure, tries = r.host.spawner.ensure, 0

        async def missing(spec: SandboxSpec, generation: int) -> Sandbox:
            nonlocal tries
            tries += 1
            if tries <= 3:
                raise error
            return await ensure(spec, generation)

        monkeypatch.setattr(r.host.spawner, "ensure", missing)
        told = await r.say("birds", "!say one")
        (failed,) = [e.data for e in told if e.kind == "turn.failed"]
        assert (failed["code"], failed["held"]) == (error.code, True)
        assert failed["message"].startswith("The agent cannot be started now. Your message is kept")
        assert error.hint in failed["reason"]
        assert (told[-1].kind, told[-1].data["text"]) == ("turn.finished", "one")


async def test_after_max_hold_the_turn_is_dead_and_can_be_tried_again(tmp_path: Path) -> None:
    async with rig(tmp_path, host='max_hold = "1s"') as r:
        r.provider.faults.add(DOWN, times=5000)
        last = (await r.say("birds", "!say one"))[-1]
        assert (last.kind, last.data["will_retry"]) == ("turn.failed", False)
        assert last.data["code"] == "provider_unavailable"
        path = group_path("birds")
        (turn,) = (await r.api.call("GET", f"{path}/turns", params={"state": "failed"}))["turns"]
        assert turn["error"]["code"] == "provider_unavailable"
        assert (await r.api.call("GET", path))["failed"] == 1
        r.provider.faults.clear()
        told = await r.api.call("POST", f"{path}/turns/{turn['turn_id']}/retry")
        assert len(told["message_ids"]) == 1
        finished = await r.until("birds", "turn.finished")
        assert finished.data["text"] == "one"
        assert (await r.api.call("GET", path))["failed"] == 0


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=402, type="membership", message="no membership"), "membership"),
        (Fault(status=429, type="exceeded_current_quota_error"), "quota_exceeded"),
    ],
)
async def test_what_the_operator_has_to_pay_for_is_held_and_told_once(
    tmp_path: Path, fault: Fault, code: str
) -> None:
    async with rig(tmp_path) as r:
        r.provider.faults.add(fault, times=1)
        told = await r.say("birds", "!say hello")
        failed = [e.data for e in told if e.kind == "turn.failed"]
        assert [(f["code"], f["held"], f["will_retry"]) for f in failed] == [(code, True, True)]
        assert (told[-1].kind, told[-1].data["text"]) == ("turn.finished", "hello")


async def test_a_bot_hears_once_that_the_answer_has_to_wait_and_then_the_answer(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r, Receiver(lambda: webhook_secret(r.layout)) as bot:
        r.provider.faults.add(Fault(status=402, type="membership", message="none"), times=3)
        await r.say("birds", "!say hello", reply_url=bot.url())
        wait, answer = await bot.until_told(2)
        assert (wait["event"], wait["code"], wait["held"]) == ("turn.failed", "membership", True)
        assert "Your message is kept" in wait["message"]
        assert wait["reason"]
        assert (answer["event"], answer["text"]) == ("turn.finished", "hello")
        assert bot.violations == []
