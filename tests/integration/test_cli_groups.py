"""What an operator sees of groups that need something, with and without a host that serves."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import invoke
from receiver import Answer, Receiver
from rig import group_path, log_in, write_config
from served import LISTEN, Served

from runner.api.client import Api
from runner.channels.secret import webhook_secret
from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout


@dataclass
class Operator:
    """Somebody at a terminal beside a host, and the people who write to its groups."""

    layout: Layout
    provider: DemoProvider
    receiver: Receiver
    served: Served
    api: Api

    async def run(self, *words: str) -> Any:
        return await asyncio.to_thread(invoke, self.layout.root, *words)

    async def json(self, *words: str) -> Any:
        done = await self.run(*words, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    async def say(self, group: str, text: str, **more: Any) -> None:
        """Send, and wait for the turn's end."""
        path = f"{group_path(group)}/messages?wait=60"
        await self.api.call("POST", path, json={"text": text, **more})


@asynccontextmanager
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider, Receiver(lambda: webhook_secret(layout)) as receiver:
        write_config(layout, provider, host="max_attempts = 1", more=LISTEN)
        log_in(layout, provider)
        served = Served(layout)
        await served.start()
        api = served.api()
        try:
            yield Operator(layout, provider, receiver, served, api)
        finally:
            await api.aclose()
            await served.stop()


async def test_what_failed_and_what_was_rejected_is_counted_and_its_fix_is_named(
    tmp_path: Path,
) -> None:
    async with operator(tmp_path) as o:
        group = "it's birds"
        o.receiver.script(Answer(410, body=b"gone"))
        await o.say(group, "!say one", reply_url=o.receiver.url())
        o.provider.faults.add(Fault(status=400, message="not like this"))
        await o.say(group, "!say two")
        async with asyncio.timeout(60):
            while not (await o.json("groups", "list"))[0]["rejected"]:
                await asyncio.sleep(0.05)
        for serving in (True, False):
            if not serving:
                await o.served.stop()
            listed = await o.run("groups", "list")
            head, row = listed.stdout.splitlines()
            assert head.split() == ["GROUP", "SANDBOX", "WAITING", "FAILED", "REJECTED", "SINCE"]
            assert row.split()[2:6] == ["idle" if serving else "none", "0", "1", "1"]
            assert "nanokimi groups show GROUP" in listed.stderr
            shown = await o.run("groups", "show", group)
            assert "not like this" in shown.stdout
            assert "HTTP 410" in shown.stdout
            for fix in ("groups retry 'it'\"'\"'s birds'", "groups deliveries 'it'\"'\"'s birds'"):
                assert f"nanokimi {fix}" in shown.stderr
            told = await o.json("groups", "show", group)
            assert (told["failed"], told["rejected"], told["held"]) == (1, 1, False)
            assert len(told["failed_turns"]) == len(told["rejected_deliveries"]) == 1


async def test_a_held_group_says_why_and_one_without_a_host_that_it_needs_one(
    tmp_path: Path,
) -> None:
    async with operator(tmp_path) as o:
        o.provider.faults.add(Fault(status=503, message="down"), times=5000)
        await o.api.call("POST", f"{group_path('g')}/messages", json={"text": "!say later"})
        async with asyncio.timeout(60):
            while not (await o.json("groups", "list"))[0]["held"]:
                await asyncio.sleep(0.05)
        listed = await o.run("groups", "list")
        assert listed.stdout.splitlines()[1].split()[1] == "held"
        assert "nanokimi serve" not in listed.stderr
        shown = await o.run("groups", "show", "g")
        assert "until the model answers again (provider_unavailable)" in shown.stdout
        await o.served.kill()
        for words in (("groups", "list"), ("groups", "show", "g")):
            assert "nanokimi serve" in (await o.run(*words)).stderr, words
        told = await o.json("groups", "show", "g")
        assert told["running_turn"] == told["messages"][0]["turn_id"]


async def test_a_turn_that_is_not_there_names_the_command_that_lists_them(tmp_path: Path) -> None:
    async with operator(tmp_path) as o:
        await o.say("g", "!say hi")
        done = await o.run("groups", "retry", "g", "turn_nope")
        assert "nanokimi groups show g" in getattr(done.exception, "hint", "")
