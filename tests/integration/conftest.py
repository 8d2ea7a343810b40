"""A laboratory: one spawner of each backend, with everything it started cleaned up at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from runner.sandbox.bubblewrap import probe
from runner.sandbox.docker import DockerSpawner
from runner.sandbox.engine import Engine
from runner.sandbox.network import network_of
from runner.sandbox.process import ProcessSpawner
from runner.sandbox.spawner import (
    Limits,
    Running,
    Sandbox,
    SandboxInfo,
    SandboxSpec,
    SandboxStatus,
    Spawner,
)
from runner.sandbox.volumes import sandbox_owner
from runner.settings.layout import Layout
from runner.wire.lines import LineReader

Kind = Literal["docker", "bubblewrap", "plain"]
DEADLINE = 40.0

CONFIG = """\
default_model = "kimi-code"
[models.kimi-code]
provider = "p"
model = "kimi-for-coding"
[providers.p]
type = "kimi"
base_url = "http://model/v1"
oauth = {storage = "file", key = "oauth/kimi-code"}
[nanokimi]
model_socket = "model.sock"
"""


class Stand:
    """A started sandbox, read by lines and with a deadline on every wait."""

    def __init__(self, lab: Lab, sandbox: Sandbox) -> None:
        self._lab = lab
        self.sandbox = sandbox
        self.info = sandbox.info
        self.streams = sandbox.streams
        self._reader = LineReader(16 << 20)
        self._lines: list[bytes] = []

    async def line(self) -> str:
        """The next line of stdout."""
        async with asyncio.timeout(DEADLINE):
            while not self._lines:
                data = await self.streams.read()
                assert data, f"the agent ended: {self.streams.stderr_tail()}"
                self._lines += self._reader.feed(data)
        return self._lines.pop(0).decode()

    async def say(self, text: str) -> None:
        await self.streams.write(text.encode() + b"\n")

    async def end_of_stream(self) -> bytes:
        """Everything up to the end of stdout."""
        out = bytearray()
        async with asyncio.timeout(DEADLINE):
            while data := await self.streams.read():
                out += data
        return bytes(out)

    async def exited(self) -> SandboxStatus:
        """Wait until poll says that it does not run any more."""
        async with asyncio.timeout(DEADLINE):
            while (status := await self._lab.spawner.poll(self.info)).running is Running.RUNNING:
                await asyncio.sleep(0.02)
        return status

    async def stop(self, grace: float = 0) -> None:
        async with asyncio.timeout(DEADLINE):
            await self._lab.spawner.stop(self.info, grace=grace)


@dataclass
class Lab:
    """A spawner of its own install, and what is needed to start stand-in agents in it."""

    kind: Kind
    layout: Layout
    install: str
    image: str
    spawner: Spawner = field(init=False)
    opened: list[Spawner] = field(default_factory=list)

    async def open(self, install: str = "") -> Spawner:
        """Another spawner on the same data directory, as a restarted host has."""
        name = install or self.install
        made: Spawner
        if self.kind == "docker":
            made = await DockerSpawner.open(self.layout, name, self.image)
        else:
            made = await ProcessSpawner.open(self.layout, name, mode=self.kind)
        self.opened.append(made)
        return made

    def spec(self, command: Iterable[str] = (), *, folder: str = "g-1", **more: Any) -> SandboxSpec:
        spec = SandboxSpec(
            group=f"group {folder}",
            folder=folder,
            config=CONFIG,
            credentials={"kimi-code.json": '{"access_token": "first"}'},
            limits=Limits(memory=512 << 20, cpus=1.0, pids=64),
            command=tuple(command),
        )
        return replace(spec, **more)

    async def start(
        self, script: str, *, folder: str = "g-1", generation: int = 1, **more: Any
    ) -> Stand:
        """Start a stand-in agent: a Python script."""
        spec = self.spec(["python3", "-c", script], folder=folder, **more)
        return Stand(self, await self.spawner.ensure(spec, generation))

    async def started(self, spec: SandboxSpec, generation: int = 1) -> Stand:
        return Stand(self, await self.spawner.ensure(spec, generation))

    def running(self, sandbox: Sandbox) -> Stand:
        return Stand(self, sandbox)

    def workspace(self, folder: str = "g-1") -> Path:
        return self.layout.workspace(folder)

    async def file(self, name: str, folder: str = "g-1") -> str:
        """Wait for a file that an agent writes into its workspace."""
        path = self.workspace(folder) / name
        async with asyncio.timeout(DEADLINE):
            while not path.exists():
                await asyncio.sleep(0.01)
        return path.read_text()

    async def kill(self, info: SandboxInfo) -> None:
        """SIGKILL from outside, as an operator or the kernel does it."""
        if self.kind != "docker":
            os.kill(int(info.ref.partition(":")[0]), signal.SIGKILL)
            return
        engine = await Engine.connect()
        try:
            await engine.run("kill", lambda api: api.kill(info.ref))
        finally:
            await engine.close()


@contextlib.asynccontextmanager
async def laboratory(kind: Kind, data: Path, image: str) -> AsyncIterator[Lab]:
    data.mkdir()
    lab = Lab(kind, Layout(data), f"test{secrets.token_hex(6)}", image)
    lab.spawner = await lab.open()
    try:
        yield lab
    finally:
        for spawner in lab.opened:
            for info in await spawner.list():
                await spawner.stop(info, grace=0)
        if kind == "docker":
            engine = await Engine.connect()
            await engine.remove_network(network_of(lab.install))
            await engine.close()
        for spawner in lab.opened:
            await spawner.close()


@pytest.fixture(scope="session")
def bubblewrap_problem() -> str:
    return asyncio.run(probe(sandbox_owner()))


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "bubblewrap", "plain"])
def backend(request: pytest.FixtureRequest) -> tuple[Kind, str]:
    """Each backend and its image; one that cannot work here is skipped with the reason."""
    kind: Kind = request.param
    if kind == "docker":
        return kind, request.getfixturevalue("agent_image")
    if kind == "bubblewrap" and (problem := request.getfixturevalue("bubblewrap_problem")):
        pytest.skip(problem)
    return kind, ""


@pytest.fixture
async def lab(backend: tuple[Kind, str], tmp_path: Path) -> AsyncIterator[Lab]:
    """One laboratory per backend."""
    kind, image = backend
    async with laboratory(kind, tmp_path / "data", image) as made:
        yield made


@pytest.fixture
async def docker_lab(agent_image: str, tmp_path: Path) -> AsyncIterator[Lab]:
    async with laboratory("docker", tmp_path / "data", agent_image) as made:
        yield made
