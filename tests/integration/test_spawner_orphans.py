"""Processes of a host that was killed: found by the next one, and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from runner.errors import SandboxGoneError
from runner.sandbox.record import identify

HOST = """
import asyncio, sys
from pathlib import Path
from runner.sandbox.process import ProcessSpawner
from runner.sandbox.spawner import Limits, SandboxSpec
from runner.settings.layout import Layout

async def main(data, install, mode):
    spawner = await ProcessSpawner.open(Layout(Path(data)), install, mode=mode)
    command = ("python3", "-c", "import time; print('ready', flush=True); time.sleep(600)")
    spec = SandboxSpec("g", "g-1", "", {}, Limits(512 << 20, 1.0, 64), command=command)
    sandbox = await spawner.ensure(spec, 1)
    assert await sandbox.streams.read() == b"ready\\n"
    print(sandbox.info.ref, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


processes = pytest.mark.parametrize("backend", ["bubblewrap", "plain"], indirect=True)


@processes
async def test_a_killed_host_leaves_nothing_that_the_next_one_cannot_end(lab):
    with subprocess.Popen(
        [sys.executable, "-c", HOST, str(lab.layout.root), lab.install, lab.kind],
        stdout=subprocess.PIPE,
        text=True,
    ) as host:
        assert host.stdout is not None
        ref = (await asyncio.to_thread(host.stdout.readline)).strip()
        host.send_signal(signal.SIGKILL)
    pid = int(ref.partition(":")[0])
    (found,) = await lab.spawner.list()
    assert found.ref == ref
    with pytest.raises(SandboxGoneError):
        await lab.spawner.adopt(found)
    await lab.spawner.stop(found, grace=0)
    assert identify(pid) is None
    assert await lab.spawner.list() == []
    assert not list(lab.layout.group_run("g-1").glob("sandbox-*"))


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
