"""A ``nanokimi serve`` of its own process: what is true of a host only when it is one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.api.client import Api
from runner.settings.layout import Layout

DEADLINE = 60.0
LISTEN = '[server]\nlisten = "127.0.0.1:0"'


class Served:
    """One host after another on one data directory; what they log is kept in a file.

    Args:
        program: what Python runs; a test may wrap the product to break it at a chosen point.
        env: variables of its own, beside those of the test.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        program: Sequence[str] = ("-m", "runner"),
        log_level: str = "info",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.layout = layout
        self.program = tuple(program)
        self.log_path = layout.root.parent / f"{layout.root.name}-serve.log"
        self._log_level = log_level
        self._env = env or {}
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def token(self) -> str:
        return self.layout.api_token.read_text().strip()

    def api(self) -> Api:
        return Api(self.url, self.token)

    async def start(self, *, program: Sequence[str] | None = None) -> None:
        """Start, and wait until it serves."""
        options = ["--data", str(self.layout.root), "--log-level", self._log_level, "serve"]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("NANOKIMI_", "KIMI_"))}
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *(program or self.program),
                *options,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env | self._env,
            )
        async with asyncio.timeout(DEADLINE):
            while not (url := self._announced()):
                assert self._process.returncode is None, self.log
                await asyncio.sleep(0.02)
        self.url = url

    def _announced(self) -> str:
        try:
            told = json.loads(self.layout.host_lock.read_text())
        except (OSError, ValueError):
            return ""
        return str(told["url"]) if told.get("pid") == self.pid else ""

    async def died(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        async with asyncio.timeout(DEADLINE):
            return await self.wait()

    async def wait(self) -> int:
        """The same without a deadline."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when it does not end."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await self.died()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        self.send_kill()
        await self.died()

    def send_kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)


def tail(path: Path, lines: int = 30) -> str:
    """The end of a log, for messages of failed tests."""
    return "\n".join(path.read_text().splitlines()[-lines:])
