"""Processes of a host that was killed: found by the next one, and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from runner.errors import SandboxGoneError
from runner.sandbox.record import ProcessId, identify, wait_ended

HOST = """
import asyncio, sys
from pathlib import Path
from runner.sandbox.process import ProcessSpawner
from runner.sandbox.spawner import Limits, SandboxSpec
from runner.settings.layout import Layout

async def main(data, install, mode, script):
    spawner = await ProcessSpawner.open(Layout(Path(data)), install, mode=mode)
    command = ("python3", "-c", script)
    spec = SandboxSpec("g", "g-1", "", {}, Limits(512 << 20, 1.0, 64), command=command)
    sandbox = await spawner.ensure(spec, 1)
    assert await sandbox.streams.read() == b"ready\\n"
    print(sandbox.info.ref, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


STUBBORN = "import time; print('ready', flush=True); time.sleep(600)"
READING = "import sys; print('ready', flush=True); sys.stdin.read()"

processes = pytest.mark.parametrize("backend", ["bubblewrap", "plain"], indirect=True)


async def killed_host(lab, script: str) -> ProcessId:
    """Start a host with one sandbox, kill it with SIGKILL; returns the agent's process."""
    with subprocess.Popen(
        [sys.executable, "-c", HOST, str(lab.layout.root), lab.install, lab.kind, script],
        stdout=subprocess.PIPE,
        text=True,
    ) as host:
        assert host.stdout is not None
        ref = (await asyncio.to_thread(host.stdout.readline)).strip()
        host.send_signal(signal.SIGKILL)
    return ProcessId(*(int(n) for n in ref.split(":")))


@processes
async def test_a_killed_host_leaves_nothing_that_the_next_one_cannot_end(lab):
    agent = await killed_host(lab, STUBBORN)
    (found,) = await lab.spawner.list()
    assert found.ref == agent.ref
    with pytest.raises(SandboxGoneError):
        await lab.spawner.adopt(found)
    await lab.spawner.stop(found, grace=0)
    assert identify(agent.pid) is None
    assert await lab.spawner.list() == []
    assert not list(lab.layout.group_run("g-1").glob("sandbox-*"))


@processes
async def test_an_agent_sees_the_end_of_its_stdin_when_its_host_is_killed(lab):
    agent = await killed_host(lab, READING)
    assert await asyncio.to_thread(wait_ended, agent, 20)
    assert [i.running for i in await lab.spawner.list()] == [False]


@pytest.mark.skipif(os.geteuid() == 0, reason="holds only where host and agent are one user")
@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
async def test_bubblewrap_ends_a_stubborn_agent_with_its_host(lab):
    agent = await killed_host(lab, STUBBORN)
    assert await asyncio.to_thread(wait_ended, agent, 20)


@processes
async def test_a_torn_record_does_not_keep_a_group_from_starting(lab):
    lab.layout.group_run("g-1").mkdir(parents=True)
    (lab.layout.group_run("g-1") / f"sandbox-{lab.install}.json").write_text('{"pid": 1')
    agent = await lab.start("print('ready', flush=True)")
    assert await agent.line() == "ready"


@pytest.mark.parametrize("backend", ["plain"], indirect=True)
async def test_plain_mode_leaves_no_home_behind(lab):
    agent = await lab.start("import os; print(os.environ['HOME'], flush=True)")
    home = await agent.line()
    assert os.path.isdir(home)
    await agent.stop()
    assert not os.path.exists(os.path.dirname(home))
