"""The parts of a cold sandbox: what the engine's calls take of it, and what the agent's hello.

By the product's own spawner and session, in this process, with an engine whose calls are timed.
These are sandboxes of their own, not those of the measured turns.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from bench.agent_start import CONFIG
from bench.finding import Finding, Spread
from bench.rig import IMAGE, directory
from runner.host.session import AgentSession, HostOffers
from runner.model import folder_of
from runner.sandbox.docker import DockerSpawner
from runner.sandbox.engine import Engine
from runner.sandbox.hostpaths import find_host_paths
from runner.sandbox.spawner import SandboxSpec
from runner.settings.group import Limits
from runner.settings.layout import Layout

DEADLINE = 60.0
GROUP = "cold"
CREATE, START, ATTACH, HELLO = (
    "create the container",
    "start it",
    "attach, and write what it mounts",
    "the agent's hello and its session",
)


class _TimedEngine(Engine):
    """Notes in ``took`` how many seconds the last create and start were."""

    took: dict[str, float]

    async def create(self, name: str, body: dict[str, object]) -> str:
        began = time.monotonic()
        ref = await super().create(name, body)
        self.took = {CREATE: time.monotonic() - began}
        return ref

    async def start(self, ref: str) -> None:
        began = time.monotonic()
        await super().start(ref)
        self.took[START] = time.monotonic() - began


def parts(count: int) -> list[Finding]:
    """One finding for each part, of ``count`` sandboxes made one after another."""
    samples = asyncio.run(_sample(count))
    return [
        Finding(
            f"cold sandbox, docker: {part}",
            Spread.of([each[part] * 1000 for each in samples]),
            "ms",
        )
        for part in (CREATE, ATTACH, START, HELLO)
    ]


async def _sample(count: int) -> list[dict[str, float]]:
    with directory() as path:
        layout = Layout(path / "data")
        layout.root.mkdir()
        engine = await _TimedEngine.connect()
        assert isinstance(engine, _TimedEngine)
        paths = await find_host_paths(engine, layout.root)
        spawner = DockerSpawner(engine, layout, secrets.token_hex(5), IMAGE, paths)
        try:
            # The first one makes the group's directories and warms the caches.
            return [await _one(spawner, engine, n) for n in range(1 + count)][1:]
        finally:
            await spawner.close()


async def _one(spawner: DockerSpawner, engine: _TimedEngine, generation: int) -> dict[str, float]:
    limits = Limits(memory=1 << 30, cpus=1.0, pids=256)
    spec = SandboxSpec(GROUP, folder_of(GROUP), CONFIG, {}, limits)
    began = time.monotonic()
    sandbox = await spawner.ensure(spec, generation)
    made = time.monotonic()
    try:
        offers = HostOffers((), lambda _group: "")
        session = await AgentSession.open(sandbox, "", DEADLINE, tuple, offers)
        took = {**engine.took, HELLO: time.monotonic() - made}
        await session.close()
    finally:
        await spawner.stop(sandbox.info, grace=1.0)
    return took | {ATTACH: made - began - took[CREATE] - took[START]}
