"""One message's way through a whole host, in process sandboxes and in containers."""

import asyncio
import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import log_in, rig, running, write_config

from runner.api.client import group_path
from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.errors import NanokimiError
from runner.host import decide
from runner.model import Event, Message, MessageState, TurnState, folder_of
from runner.settings.layout import Layout

backends = pytest.mark.parametrize(
    "backend", ["process", pytest.param("docker", marks=pytest.mark.docker)]
)


def bash(command: str, say: str = "done: {last}") -> str:
    return f"!call bash {json.dumps({'command': command})}\n!say {say}"


@pytest.fixture
def config(backend: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    made: dict[str, Any] = {"backend": backend}
    if backend == "docker":
        made["image"] = request.getfixturevalue("agent_image")
    return made


@pytest.fixture
def host_address(docker_engine: str) -> Iterator[str]:
    """An address of this machine that containers reach: the gateway of a network of our own."""
    del docker_engine
    name = f"nanokimi-test-{secrets.token_hex(4)}"
    subprocess.check_output(["docker", "network", "create", name])
    try:
        shown = subprocess.check_output(["docker", "network", "inspect", name])
        yield json.loads(shown)[0]["IPAM"]["Config"][0]["Gateway"]
    finally:
        subprocess.check_output(["docker", "network", "rm", name])


@backends
async def test_a_message_is_answered_in_a_stream_with_tools(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    async with rig(tmp_path, **config) as r:
        events = await r.say("birds", "write 'the heron' to notes.txt and read it back")
        kinds = [e.kind for e in events]
        assert kinds[:2] == ["message.accepted", "turn.started"]
        assert kinds[-1] == "turn.finished"
        assert kinds.count("tool.started") == kinds.count("tool.finished") == 2
        assert "thinking.delta" in kinds
        answer = "".join(e.data["text"] for e in events if e.kind == "text.delta")
        assert answer == events[-1].data["text"]
        assert "the heron" in answer
        usage = events[-1].data["usage"]
        assert usage["input_tokens"] > 0
        assert usage["output_tokens"] > 0
        workspace = r.layout.workspace(folder_of("birds"))
        assert (workspace / "notes.txt").read_text() == "the heron"


@backends
async def test_the_next_sandbox_remembers_and_the_request_holds_the_earlier_words(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    async with rig(tmp_path, **config) as r:
        await r.ask("birds", "remember the word heron")
        before = r.host.pool.warm()["birds"].sandbox.info
        assert (await r.api.call("POST", f"{group_path('birds')}/stop"))["stopped"]
        assert await r.host.spawner.list() == []
        answer = await r.ask("birds", "which word did I tell you?")
        after = r.host.pool.warm()["birds"].sandbox.info
        assert answer == "The word was heron."
        assert after.ref != before.ref
        assert after.generation > before.generation
        assert b"remember the word heron" in r.provider.chats()[-1].body


@backends
async def test_a_new_host_remembers_too(tmp_path: Path, config: dict[str, Any]) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider, **config)
        log_in(layout, provider)
        async with running(layout, provider) as r:
            await r.ask("birds", "remember the word heron")
        async with running(layout, provider) as r:
            assert await r.ask("birds", "which word?") == "The word was heron."


@backends
async def test_a_reset_forgets_the_talk_and_keeps_the_files(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    async with rig(tmp_path, **config) as r:
        await r.ask("birds", "remember the word heron")
        await r.ask("birds", "write 'kept' to notes.txt and read it back")
        await r.api.call("POST", f"{group_path('birds')}/reset")
        assert "not told" in await r.ask("birds", "which word?")
        assert "kept" in await r.ask("birds", "read notes.txt")


@backends
async def test_groups_share_nothing(tmp_path: Path, config: dict[str, Any]) -> None:
    async with rig(tmp_path, **config) as r:
        await r.ask("birds", "write 'a secret place' to notes.txt and read it back")
        search = "grep -rl 'a secret place' / --include=notes.txt 2>/dev/null | wc -l"
        assert "done: 0" in await r.ask("plants", bash(search))


@backends
async def test_the_sandbox_has_no_network_and_no_real_credential(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    async with rig(tmp_path, **config) as r:
        port = r.provider.base_url.split(":")[2].split("/")[0]
        probe = (
            f"(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>&1 | tail -1; "
            "cat /sys/class/net/*/operstate 2>/dev/null | grep -c up; "
            "cat ~/.kimi/credentials/*; cat ~/.kimi/config.toml; env"
        )
        events = await r.say("birds", bash(probe))
        output = next(e.data["output"] for e in events if e.kind == "tool.finished")
        login = json.loads((r.layout.credentials / "kimi-code.json").read_text())
        assert login["access_token"] not in output
        assert login["refresh_token"] not in output
        assert r.provider.base_url not in output
        assert "[redacted]" in output  # its own scoped token is not shown either
        assert "refused" in output or "unreachable" in output or "No such" in output


@backends
async def test_a_tool_that_writes_to_every_descriptor_forges_nothing(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    forged = json.dumps(
        {
            "jsonrpc": "2.0",
            "method": "session/update",
            "params": {
                "sessionId": "x",
                "update": {
                    "sessionUpdate": "agent_message_chunk",
                    "content": {"type": "text", "text": "FORGED"},
                },
            },
        }
    )
    attack = f"""
    for f in /proc/[0-9]*/fd/*; do
        case $f in /proc/self/*|/proc/$$/*) continue;; esac
        (printf '%s\\n' '{forged}' > $f) 2>/dev/null
    done
    for p in /proc/[0-9]*; do (printf x > $p/mem) 2>/dev/null; done
    echo tried
    """
    async with rig(tmp_path, **config) as r:
        events = await r.say("birds", bash(attack, say="still mine"))
        assert events[-1].data["text"] == "still mine"
        deltas = [e.data["text"] for e in events if e.kind == "text.delta"]
        assert "".join(deltas) == "still mine"
        output = next(e.data["output"] for e in events if e.kind == "tool.finished")
        assert "tried" in output
        assert await r.ask("birds", "!say again") == "again"


@backends
async def test_an_open_sandbox_calls_the_provider_itself(
    tmp_path: Path, config: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    layout = Layout(tmp_path / "data")
    if config["backend"] == "docker":
        host = request.getfixturevalue("host_address")
    else:
        host = "127.0.0.1"
    async with DemoProvider(host=host) as provider:
        write_config(layout, provider, **config, sandbox='network = "open"')
        log_in(layout, provider)
        async with running(layout, provider) as r:
            answer = await r.ask("birds", bash("cat ~/.kimi/credentials/*"))
            login = json.loads((r.layout.credentials / "kimi-code.json").read_text())
            asked = r.provider.chats()[0]
            assert asked.headers["authorization"] == f"Bearer {login['access_token']}"
            assert login["access_token"] not in json.dumps(await r.events("birds"))
            assert "[redacted]" in answer
            assert login["refresh_token"] not in answer


async def test_waiting_groups_are_served_in_turn_by_few_sandboxes(tmp_path: Path) -> None:
    async with rig(tmp_path, host="max_containers = 2") as r:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(await r.host.spawner.list()))
                await asyncio.sleep(0.02)

        watcher = asyncio.create_task(watch())
        answers = await asyncio.gather(*(r.ask(f"g{n}", f"!say {n}") for n in range(7)))
        watcher.cancel()
        assert answers == [str(n) for n in range(7)]
        assert most <= 2


async def test_a_group_with_nothing_more_to_do_costs_no_other_its_warm_sandbox(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, host="max_containers = 1") as r:
        async with asyncio.timeout(60):
            one = asyncio.create_task(r.ask("one", "!say one"))
            await r.until("one", "turn.started")
            await asyncio.gather(one, r.ask("two", "!say two"))
            while workers := list(r.host._dispatcher._workers.values()):
                await asyncio.wait(workers)
        assert set(r.host.pool.warm()) == {"two"}


async def test_messages_that_came_during_a_turn_are_answered_together_after_it(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, host="steer = false") as r:
        first = asyncio.create_task(r.ask("birds", "!slow 0.2\n!say one two three"))
        await r.until("birds", "text.delta")
        for text in ("second", "third"):
            await r.api.call("POST", f"{group_path('birds')}/messages", json={"text": text})
        await first
        async with asyncio.timeout(30):
            while any(
                m.state is not MessageState.ANSWERED for m in await r.host.store.messages("birds")
            ):
                await asyncio.sleep(0.02)
        said = r.provider.chats()[-1].json["messages"][-1]["content"]
        assert said.index("second") < said.index("third")
        assert len({m.turn_id for m in await r.host.store.messages("birds")}) == 2


async def test_what_does_not_call_the_agent_waits_as_context(tmp_path: Path) -> None:
    async with rig(tmp_path, more='[groups.birds]\ntrigger = "@kimi"') as r:
        posted = await r.api.call(
            "POST", f"{group_path('birds')}/messages", json={"text": "the word is heron"}
        )
        assert posted["wakes"] is False
        assert "@kimi" in posted["hint"]
        await r.ask("birds", "@kimi what was said?", sender="Bo")
        said = r.provider.chats()[0].json["messages"][-1]["content"]
        assert said.index("the word is heron") < said.index("what was said?")
        assert "Bo" in said
        assert len(r.provider.chats()) == 1


# -- what goes wrong ----------------------------------------------------------------------------


async def test_a_provider_that_is_away_for_a_while_costs_only_time(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.provider.faults.add(Fault(status=500), times=3)
        events = await r.say("birds", "!say hello")
        failed = [e.data for e in events if e.kind == "turn.failed"]
        assert [(f["code"], f["will_retry"]) for f in failed] == [("provider_unavailable", True)]
        assert events[-1].data["text"] == "hello"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=404, type="resource_not_found_error"), "model_not_found"),
        (Fault(status=400, type="invalid_request_error", message="bad thing"), "bad_request"),
    ],
)
async def test_a_refusal_is_told_once_and_the_next_message_works(
    tmp_path: Path, fault: Fault, code: str
) -> None:
    async with rig(tmp_path) as r:
        r.provider.faults.add(fault, times=1)
        last = (await r.say("birds", "!say hello"))[-1]
        assert (last.kind, last.data["code"], last.data["will_retry"]) == (
            "turn.failed",
            code,
            False,
        )
        assert last.data["message"]
        assert [m.state for m in await r.host.store.messages("birds")] == [MessageState.FAILED]
        assert await r.ask("birds", "!say again") == "again"


async def test_a_lost_login_is_said_once_and_the_messages_are_answered_after_the_next(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        r.provider.revoke_logins()
        r.provider.revoke_access()
        first = asyncio.create_task(r.ask("birds", "!say one"))
        failed = await r.until("birds", "turn.failed")
        assert (failed.data["code"], failed.data["held"]) == ("login_required", True)
        assert "nanokimi" not in failed.data["message"] + failed.data["hint"]
        assert "nanokimi login" in failed.data["reason"]
        posted = await r.api.call(
            "POST", f"{group_path('birds')}/messages", json={"text": "remember the word heron"}
        )
        assert "nanokimi login" in posted["hint"]
        assert (await r.host.readiness())["login"] != "ok"
        assert not first.done()
        log_in(r.layout, r.provider)
        assert (await first).startswith("one")  # and what came meanwhile may have joined it
        assert (await r.ask("birds", "which word?")).endswith("The word was heron.")
        told = [e for e in await r.events("birds") if e["kind"] == "turn.failed"]
        assert len(told) == 1
        states = {m.state for m in await r.host.store.messages("birds")}
        assert states == {MessageState.ANSWERED}


async def test_a_held_turn_can_be_cancelled(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.provider.revoke_logins()
        r.provider.revoke_access()
        work = asyncio.create_task(r.say("birds", "!say one"))
        await r.until("birds", "turn.failed")
        await r.api.call("POST", f"{group_path('birds')}/cancel")
        assert (await work)[-1].data["status"] == "cancelled"


async def test_a_turn_that_waits_for_a_slot_to_be_tried_again_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "FIRST_DELAY", 2.0)
    async with rig(tmp_path, host="max_containers = 1") as r:
        r.provider.faults.add(Fault(status=503, message="down"), times=5000)
        held = asyncio.create_task(r.say("held", "!say one"))
        assert (await r.until("held", "turn.failed")).data["held"]
        r.provider.faults.clear()
        busy = asyncio.create_task(r.ask("busy", bash("while [ ! -e go ]; do sleep 0.05; done")))
        await r.until("busy", "tool.started")
        async with asyncio.timeout(30):
            while "held" not in r.host.pool._waiting:
                await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await r.api.call("POST", f"{group_path('held')}/cancel")
            assert (await held)[-1].data["status"] == "cancelled"
        assert not r.host.held_for("held")
        again = asyncio.create_task(r.ask("held", "!say two"))
        await r.until("held", "message.accepted")
        r.layout.workspace((await r.host.store.group("busy")).folder).joinpath("go").touch()
        assert await again == "two"
        await busy


async def test_a_wrong_api_key_is_held_until_the_config_has_another(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        provider.add_api_key("sk-right-key")
        write_config(layout, provider, model="kimi-k2.6")
        login = (
            f'oauth = {{storage = "file", key = "oauth/kimi-code", host = "{provider.oauth_host}"}}'
        )
        config = layout.config.read_text().replace(provider.base_url, provider.open_platform_url)
        layout.config.write_text(config.replace(login, 'api_key = "sk-wrong-key"'))
        async with running(layout, provider) as r:
            work = asyncio.create_task(r.ask("birds", "!say hi"))
            failed = await r.until("birds", "turn.failed")
            assert failed.data["held"]
            assert "sk-wrong-key" not in json.dumps(failed.data)
            text = layout.config.read_text().replace("sk-wrong-key", "sk-right-key")
            layout.config.write_text(text)
            assert await work == "hi"


async def test_a_cut_stream_is_begun_again_and_the_answer_is_whole(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.provider.faults.add(Fault(cut_after=6))
        events = await r.say("birds", "!say one two three four five six seven eight")
        assert events[-1].data["text"] == "one two three four five six seven eight"


AGENTS = {
    "exits": ("exit 3", "sandbox_gone"),
    "speaks garbage": ("echo hello; sleep 60", "protocol_bad_frame"),
    "floods": ('yes \'{"jsonrpc":"2.0","method":"x"}\'', "protocol_flood"),
    "never ends a line": ("cat /dev/zero | tr '\\0' x", "protocol_line_too_long"),
    "answers what was not asked": (
        'echo \'{"jsonrpc":"2.0","id":99,"result":{}}\'; sleep 60',
        "protocol_unknown_id",
    ),
    "sends bytes that are no text": ("printf '\\377\\376\\n'; sleep 60", "protocol_bad_frame"),
}


@pytest.mark.parametrize("name", AGENTS)
async def test_a_broken_agent_is_ended_and_told(tmp_path: Path, name: str) -> None:
    script, code = AGENTS[name]
    engine = f"engine = {json.dumps(['/bin/sh', '-c', script])}"
    async with rig(tmp_path, host="max_attempts = 1", more=f"[groups.broken]\n{engine}") as r:
        last = (await r.say("broken", "hello"))[-1]
        assert (last.kind, last.data["code"]) == ("turn.failed", code)
        assert await r.host.spawner.list() == []
        assert await r.ask("birds", "!say fine") == "fine"


async def test_an_agent_of_another_protocol_version_is_refused_with_the_fix(tmp_path: Path) -> None:
    script = (
        """read -r hello; echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":2}}'; cat"""
    )
    engine = f"engine = {json.dumps(['/bin/sh', '-c', script])}"
    async with rig(tmp_path, more=f"[groups.other]\n{engine}") as r:
        last = (await r.say("other", "hello"))[-1]
        assert (last.kind, last.data["code"]) == ("turn.failed", "protocol_version")
        assert (last.data["attempt"], last.data["will_retry"]) == (1, False)
        assert "nanokimi build" in last.data["hint"]
        assert await r.host.spawner.list() == []


async def test_a_turn_that_takes_too_long_is_ended_and_the_next_one_works(tmp_path: Path) -> None:
    async with rig(tmp_path, host='turn_timeout = "2s"') as r:
        last = (await r.say("birds", bash("sleep 60")))[-1]
        assert last.data["code"] == "turn_timeout"
        assert "turn_timeout" in last.data["hint"]
        assert await r.ask("birds", "!say again") == "again"


@backends
async def test_cancel_ends_the_running_tool_and_the_sandbox_stays_warm(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    async with rig(tmp_path, **config) as r:
        work = asyncio.create_task(r.say("birds", bash("echo begun > begun; sleep 60")))
        await r.until("birds", "tool.started")
        begun = r.layout.workspace(folder_of("birds")) / "begun"
        async with asyncio.timeout(20):
            while not begun.exists():
                await asyncio.sleep(0.02)
        warm = r.host.pool.warm()["birds"]
        await r.api.call("POST", f"{group_path('birds')}/cancel")
        last = (await work)[-1]
        assert (last.kind, last.data["status"]) == ("turn.finished", "cancelled")
        count = "grep -al '^sleep' /proc/[0-9]*/cmdline 2>/dev/null | wc -l"
        assert "done: 0" in await r.ask("birds", bash(count))
        assert r.host.pool.warm()["birds"] is warm
        with pytest.raises(NanokimiError) as e:
            await r.api.call("POST", f"{group_path('birds')}/cancel")
        assert e.value.code == "nothing_running"


async def test_a_group_deleted_while_it_works_is_gone_with_its_files(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        work = asyncio.create_task(r.say("birds", bash("sleep 60")))
        await r.until("birds", "tool.started")
        await r.api.call("DELETE", group_path("birds"))
        last = (await work)[-1]
        assert (last.kind, last.data["status"]) == ("turn.finished", "cancelled")
        folder = folder_of("birds")
        for path in (r.layout.workspace(folder), r.layout.sessions(folder)):
            assert not path.exists()
        assert await r.host.spawner.list() == []
        assert await r.ask("birds", "!say new") == "new"


async def test_a_turn_cut_off_by_the_hosts_end_is_finished_by_the_next_host(
    tmp_path: Path,
) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider)
        layout.config.write_text(layout.config.read_text().replace('grace = "5s"', 'grace = "0s"'))
        log_in(layout, provider)
        text = "!call bash " + json.dumps({"command": "echo x >> effects; sleep 1.5"})
        async with running(layout, provider) as r:
            work = asyncio.create_task(r.say("birds", f"{text}\n!say whole"))
            await r.until("birds", "tool.started")
        with contextlib.suppress(NanokimiError):
            await work
        async with running(layout, provider) as r:
            (message,) = await r.host.store.messages("birds")
            assert message.turn_id is not None
            async with asyncio.timeout(30):
                while (turn := await r.host.store.turn(message.turn_id)).finished_at is None:
                    await asyncio.sleep(0.02)
            assert (turn.state, turn.text, turn.attempt) == (TurnState.DONE, "whole", 2)
            effects = r.layout.workspace(folder_of("birds")) / "effects"
            assert effects.read_text() == "x\n"
        assert b"interrupted" in provider.chats()[-1].body


async def test_a_changed_config_takes_effect_and_a_broken_one_does_not(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.ask("birds", "!say one")
        before = r.host.pool.warm()["birds"]
        good = r.layout.config.read_text()
        r.layout.config.write_text(good + "\n[gruops]\n")
        r.layout.config.write_text(
            good.replace("max_retries_per_step = 1", "max_retries_per_step = 2")
        )
        async with asyncio.timeout(20):
            while r.host.settings.loop_control.max_retries_per_step != 2:
                await asyncio.sleep(0.02)
        await r.ask("birds", "!say two")
        assert r.host.pool.warm()["birds"] is not before


async def test_no_sandbox_outlives_its_host(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await asyncio.gather(*(r.ask(f"g{n}", "!say x") for n in range(3)))
        spawner = r.host.spawner
        assert len(await spawner.list()) == 3
    assert await spawner.list() == []


async def test_a_host_ends_what_an_earlier_one_left(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.ask("birds", "!say x")
        left = r.host.pool.warm()["birds"].sandbox.info
        r.host.pool._sessions.clear()  # as if the host had been killed
        assert [i.ref for i in await r.host.spawner.list()] == [left.ref]
        await r.host._opener.clear_leftovers()
        assert await r.host.spawner.list() == []


@pytest.mark.parametrize("session", ["", "task:one"])
async def test_a_reset_while_a_sandbox_is_made_is_not_undone_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: str
) -> None:
    async with rig(tmp_path) as r:
        store = r.host.store

        async def ask(n: int, text: str) -> str:
            message = Message(f"m{n}", "birds", 0, text, session=session, channel="http")
            with r.host.events.writing("birds") as id_:
                event = Event(id_, "birds", "message.accepted", {}, None, (message.id,))
                r.host._dispatcher.arrived((await store.accept(message, 9, event)).message)
            async with asyncio.timeout(60):
                while (await store.message(message.id)).state is not MessageState.ANSWERED:
                    await asyncio.sleep(0.02)
            return (await store.turn(str((await store.message(message.id)).turn_id))).text

        await ask(1, "remember the word heron")
        assert "heron" in await ask(2, "which word?")
        await r.host.stop_sandbox("birds")
        raise_generation = store.next_generation

        async def after_a_reset(group: str, host: str) -> int:
            await store.reset_group(group)
            monkeypatch.undo()
            return await raise_generation(group, host)

        monkeypatch.setattr(store, "next_generation", after_a_reset)
        await ask(3, "!say one")
        assert "heron" not in await ask(4, "which word?")
