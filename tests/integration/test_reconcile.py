"""Sandboxes that go, or appear, behind the host's back."""

import asyncio
import json
import os
import signal
from pathlib import Path

from rig import Rig, rig

from runner.host.reconcile import leaked, reconcile, strays
from runner.model import folder_of
from runner.sandbox.spawner import SandboxInfo


def info(group: str, ref: str = "", *, running: bool = True) -> SandboxInfo:
    return SandboxInfo(ref or group, group, folder_of(group), 1, running)


def kill_of(sandbox: SandboxInfo) -> None:
    os.kill(int(sandbox.ref.split(":")[0]), signal.SIGKILL)


async def until_free(r: Rig, group: str) -> None:
    async with asyncio.timeout(30):
        while group in r.host.pool.groups():
            await asyncio.sleep(0.02)


def test_a_stray_is_what_neither_we_nor_a_living_host_has() -> None:
    listed = [info("mine"), info("theirs"), info("nobodys")]
    assert [i.group for i in strays(listed, {"mine"}, {"theirs"})] == ["nobodys"]


def test_a_slot_leaked_whose_sandbox_is_not_listed_or_does_not_run() -> None:
    warm = [info("here"), info("gone"), info("dead"), info("replaced", "old")]
    listed = [info("here"), info("dead", running=False), info("replaced", "new")]
    assert leaked(listed, warm) == ["gone", "dead", "replaced"]


async def test_an_idle_sandbox_that_is_killed_frees_its_slot_and_the_next_remembers(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, host="max_containers = 1") as r:
        await r.ask("birds", "remember the word heron")
        kill_of(r.host.pool.warm()["birds"].sandbox.info)
        await until_free(r, "birds")
        assert await r.ask("plants", "!say mine") == "mine"
        assert await r.ask("birds", "which word?") == "The word was heron."


async def test_a_busy_sandbox_that_is_killed_is_replaced_and_runs_no_tool_twice(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        tool = json.dumps({"command": "echo x >> effects; sleep 60"})
        work = asyncio.create_task(r.say("birds", f"!call bash {tool}\n!say whole"))
        effects = r.layout.workspace(folder_of("birds")) / "effects"
        async with asyncio.timeout(30):
            while not effects.exists():
                await asyncio.sleep(0.02)
        kill_of(r.host.pool.warm()["birds"].sandbox.info)
        assert (await work)[-1].data["text"] == "whole"
        assert effects.read_text() == "x\n"


async def test_a_session_whose_sandbox_the_engine_lost_gives_its_slot_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.ask("birds", "!say one")
        session = r.host.pool.warm()["birds"]
        real = session.sandbox.info

        class Forgetful:
            """The engine, without this sandbox in its list."""

            async def list(self) -> list[SandboxInfo]:
                return [i for i in await r.host.spawner.list() if i.ref != real.ref]

        await reconcile(r.host.pool, r.host._opener, Forgetful())  # type: ignore[arg-type]
        await until_free(r, "birds")
        assert await r.ask("birds", "!say two") == "two"


async def test_a_sandbox_that_nobody_knows_is_ended_and_a_known_one_is_not(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.ask("birds", "!say one")
        await r.ask("plants", "!say one")
        session = r.host.pool._sessions.pop("birds")
        r.host.pool._idle.pop("birds")
        r.host.pool._occupied.discard("birds")
        await reconcile(r.host.pool, r.host._opener, r.host.spawner)
        assert [i.group for i in await r.host.spawner.list()] == ["plants"]
        await session.close()
