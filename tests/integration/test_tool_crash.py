"""A host tool's effect happens once, whatever dies between the effect and its answer."""

import asyncio
import signal
from pathlib import Path

import pytest
from followed import until
from rig import log_in, rig, write_config
from served import LISTEN, Served

from runner.api.client import group_path
from runner.demo.provider import DemoProvider
from runner.host.tools.desk import Said, ToolDesk
from runner.settings.layout import Layout

# Runs the product, and kills it before or after the first call of a host tool has had its effect.
KILLED = """
import os, signal, sys
from pathlib import Path

when, once = sys.argv[1], Path(sys.argv[2])
del sys.argv[1:3]

def die():
    try:
        once.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

from runner.host.tools.desk import ToolDesk
call = ToolDesk.call

async def dying(*args, **named):
    if when == "before":
        die()
    said = await call(*args, **named)
    if when == "after":
        die()
    return said

ToolDesk.call = dying
from runner.cli.main import main
main(sys.argv[1:])
"""
TEXT = '!call send_message {"text": "half done"}\n!say all done'


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_host_killed_around_a_tools_effect_has_it_once(tmp_path: Path, when: str) -> None:
    layout = Layout(tmp_path / "data")
    script, order = tmp_path / "killed.py", tmp_path / "order"
    script.write_text(KILLED)
    order.touch()
    async with DemoProvider() as provider:
        write_config(layout, provider, more=LISTEN)
        log_in(layout, provider)
        host = Served(layout, program=(str(script), when, str(order)))
        await host.start()
        try:
            api = host.api()
            await api.call("POST", f"{group_path('birds')}/messages", json={"text": TEXT})
            await api.aclose()
            assert await host.died() == -signal.SIGKILL
            await host.start()
            found = await until(host, "birds", "turn.finished")
        finally:
            await host.stop()
        assert found[-1][1]["text"] == "all done"
        assert [d["text"] for k, d in found if k == "message.sent"] == ["half done"]
        tells = [m["content"] for m in provider.chats()[-1].json["messages"] if m["role"] == "tool"]
        assert tells == ["sent"]  # no word of an interruption: the call was made again


async def test_a_sandbox_killed_while_a_tool_answers_has_the_effect_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The effect is on disk, the agent dies before it hears of it, and the next one asks again."""
    killed = asyncio.Event()
    call = ToolDesk.call

    async with rig(tmp_path) as r:

        async def killing(self: ToolDesk, group: str, *args: object) -> Said:
            said = await call(self, group, *args)  # type: ignore[arg-type]
            if not killed.is_set():
                killed.set()
                (info,) = await r.host.spawner.list()
                await r.host.spawner.stop(info, grace=0)
            return said

        monkeypatch.setattr(ToolDesk, "call", killing)
        assert await r.ask("birds", TEXT) == "all done"
        assert killed.is_set()
        events = await r.events("birds")
        assert [e["text"] for e in events if e["kind"] == "message.sent"] == ["half done"]
        assert any(e["kind"] == "turn.failed" and e["will_retry"] for e in events)
