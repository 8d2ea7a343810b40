"""``nanokimi gateway`` as a process: who may start it, how it says that it is well, how it ends."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
from rig import log_in, write_config

from runner import __version__
from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout

DEADLINE = 60


async def start(layout: Layout) -> asyncio.subprocess.Process:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NANOKIMI_", "KIMI_"))}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runner", "--data", str(layout.root), "--log-format", "json",
        "gateway", "--listen", "127.0.0.1:0",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
    )  # fmt: skip


async def test_a_gateway_that_nobody_could_call_does_not_start(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider)
        process = await start(layout)
        async with asyncio.timeout(DEADLINE):
            _, err = await process.communicate()
    assert process.returncode == 2
    assert b"error: [gateway] keys is empty" in err
    assert b"hint:" in err


async def test_health_is_told_to_anybody_without_asking_a_provider(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider, more='[gateway]\nkeys = ["gw-secret-key"]\n')
        log_in(layout, provider)
        process = await start(layout)
        try:
            url = await _announced(process)
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                answer = await client.get("/health")
                refused = await client.get("/v1/models")
        finally:
            process.terminate()
            async with asyncio.timeout(DEADLINE):
                await process.communicate()
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "ok", "version": __version__},
        )
        assert refused.status_code == 401
        assert provider.chats() == []
    assert process.returncode == 0


async def _announced(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE):
        while line := await process.stderr.readline():
            if b"gateway.serving" in line:
                return line.decode().partition('"url": "')[2].partition('"')[0]
    raise AssertionError("it ended before it served")
