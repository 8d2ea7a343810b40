"""A ``nanokimi gateway --workers N`` of its own processes, with a line to each of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from runner.api.call_metrics import DIRECTORY
from runner.settings.layout import Layout

DEADLINE = 60.0


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def holds(pid: int, client: int, server: int | None) -> bool:
    """Whether this process has the connection between two ports of this machine."""
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *rest = row.split()
        if (int(local[9:], 16), int(remote[9:], 16)) == (server, client):
            wanted = f"socket:[{rest[6]}]"
            return any(_target(fd) == wanted for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


class Line:
    """A client with one connection, and so with one worker."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.port = 0

    async def get(self, path: str) -> httpx.Response:
        return self._same(await self.client.get(path))

    async def chat(self, messages: list[Any], model: str = "kimi-code", **more: Any) -> Any:
        body = {"model": model, "messages": messages, **more}
        return self._same(await self.client.post("/v1/chat/completions", json=body))

    async def say(self, text: str) -> httpx.Response:
        found: httpx.Response = await self.chat([{"role": "user", "content": text}])
        return found

    def _same(self, answer: httpx.Response) -> httpx.Response:
        port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
        assert self.port in (0, port), "the connection was not kept"
        self.port = port
        return answer


class Fleet:
    """The parent and its workers, as the log tells of them."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.url = ""

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    @property
    def pids(self) -> dict[int, int]:
        """The process of each worker; the last one that was started."""
        started = (e for e in self.events if e["event"] == "gateway.worker_started")
        found = {int(e["worker"]): int(e["pid"]) for e in started}
        return dict(sorted(found.items()))

    @property
    def counts(self) -> Path:
        """Where the workers count together."""
        environ = Path(f"/proc/{self.pids[0]}/environ").read_text().split("\0")
        return Path(dict(line.split("=", 1) for line in environ if line)[DIRECTORY])

    async def replaced(self, worker: int, pid: int) -> None:
        """Wait until another process has taken the place of this one."""
        async with asyncio.timeout(DEADLINE):
            while self.pids[worker] == pid:
                await asyncio.sleep(0.02)

    async def until(self, event: str, **values: object) -> dict[str, Any]:
        """The first event with these values."""
        async with asyncio.timeout(DEADLINE):
            while True:
                for e in self.events:
                    if e["event"] == event and values.items() <= e.items():
                        return e
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def line(self, worker: int, key: str) -> AsyncIterator[Line]:
        """A connection that this worker has got; the kernel chooses, so it takes some tries."""
        async with asyncio.timeout(DEADLINE), contextlib.AsyncExitStack() as stack:
            while True:
                client = httpx.AsyncClient(
                    base_url=self.url,
                    headers={"authorization": f"Bearer {key}"},
                    limits=httpx.Limits(max_connections=1),
                    timeout=DEADLINE,
                    trust_env=False,
                )
                line = Line(await stack.enter_async_context(client))
                assert (await line.get("/health")).status_code == 200
                if holds(self.pids[worker], line.port, httpx.URL(self.url).port):
                    break
            yield line

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE):
            return await self.process.wait()

    async def all_gone(self, pids: list[int]) -> None:
        async with asyncio.timeout(DEADLINE):
            while any(map(alive, pids)):
                await asyncio.sleep(0.02)


async def launch(layout: Layout, workers: int, listen: str = "127.0.0.1:0") -> Fleet:
    """Start one; it need not come up."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NANOKIMI_", "KIMI_"))}
    path = layout.root.parent / "gateway.log"
    with path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runner", "--data", str(layout.root), "--log-format", "json",
            "gateway", "--listen", listen, "--workers", str(workers),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
        )  # fmt: skip
    return Fleet(process, path)


@asynccontextmanager
async def fleet(layout: Layout, workers: int = 3) -> AsyncIterator[Fleet]:
    """A gateway that serves inside the block."""
    made = await launch(layout, workers)
    try:
        made.url = (await made.until("gateway.serving"))["url"]
        yield made
    finally:
        try:
            with contextlib.suppress(ProcessLookupError):
                made.process.terminate()
            await made.ended()
            await made.all_gone(list(made.pids.values()))
        finally:
            for pid in filter(alive, made.pids.values()):
                os.kill(pid, signal.SIGKILL)
