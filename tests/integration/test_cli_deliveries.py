"""What could not be delivered, as an operator sees it in a terminal."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from receiver import Answer, Receiver
from rig import group_path, log_in, write_config
from served import LISTEN, Served

from runner.channels.secret import webhook_secret
from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout


async def nanokimi(layout: Layout, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runner", "--data", str(layout.root), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"COLUMNS": "200"},
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.timeout(300)  # many commands, each a process
async def test_a_rejected_answer_is_shown_and_sent_again_with_and_without_a_host(
    tmp_path: Path,
) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider, Receiver(lambda: webhook_secret(layout)) as receiver:
        write_config(layout, provider, more=LISTEN)
        log_in(layout, provider)
        served = Served(layout)
        await served.start()
        try:
            receiver.script(Answer(410, body=b"gone [for good]"), Answer(410))
            api = served.api()
            for n in range(2):
                body = {"text": f"!say {n}", "reply_url": receiver.url()}
                path = f"{group_path('birds')}/messages?wait=60"
                await api.call("POST", path, json=body)
            await receiver.until(lambda: len(receiver.paths) == 2)
            path = f"{group_path('birds')}/deliveries?state=rejected"
            while len((await api.call("GET", path))["deliveries"]) < 2:
                await asyncio.sleep(0.02)
            await api.aclose()
            code, out = await nanokimi(layout, "groups", "show", "birds")
            assert (code, "HTTP 410: gone [for good]" in out) == (0, True)
            _, out = await nanokimi(layout, "groups", "deliveries", "birds", "--json")
            first, second = json.loads(out)
            again = ("groups", "deliveries", "birds", "--retry")
            assert (await nanokimi(layout, *again, first["delivery_id"]))[0] == 0
            await receiver.until_told(1)
            code, out = await nanokimi(layout, *again, "../../x")
            assert (code, "error: " in out, "hint: " in out) == (1, True, True)
        finally:
            await served.stop()
        code, out = await nanokimi(layout, *again, second["delivery_id"])
        assert (code, "pending" in out) == (0, True)
        await served.start()
        try:
            await receiver.until_told(2)
        finally:
            await served.stop()
        assert sorted(receiver.texts()) == ["0", "1"]
        code, out = await nanokimi(layout, "groups", "deliveries", "birds")
        assert (code, out) == (0, "everything has arrived\n")
        assert receiver.violations == []
