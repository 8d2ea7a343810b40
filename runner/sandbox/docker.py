"""Sandboxes as Docker containers."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from runner.errors import ConflictError, EngineError, ImageMissingError, SandboxGoneError
from runner.sandbox.agentlog import AgentLog
from runner.sandbox.attach import AttachedStreams, attach
from runner.sandbox.container import (
    LABEL_GENERATION,
    LABEL_INSTALL,
    HostMount,
    create_body,
    info_of,
    name_of,
)
from runner.sandbox.engine import ContainerState, Engine, RefusedError, as_engine_error
from runner.sandbox.hostpaths import HostPaths, find_host_paths
from runner.sandbox.mounts import check_extra, plan
from runner.sandbox.network import ensure_open_network, join_shield
from runner.sandbox.recipe import is_stale
from runner.sandbox.spawner import (
    BRIDGE,
    HOME,
    RUN_DIR,
    WORKSPACE,
    EngineReport,
    Program,
    Running,
    SandboxInfo,
    SandboxSpec,
    SandboxStatus,
)
from runner.sandbox.volume import LocalVolume
from runner.sandbox.volumes import (
    Owner,
    prepare,
    project_config,
    project_credentials,
    sandbox_owner,
)
from runner.settings.layout import Layout

CREATE_TRIES = 4
REMOVE_DEADLINE = 20.0
REMOVE_POLL = 0.05
# A leftover of an older generation has nothing to say any more; it may still fsync its journal.
LEFTOVER_GRACE = 2.0


_BRIDGE = Program(
    "/usr/bin/env",
    ("python3", *BRIDGE),
    {"HOME": HOME, "NANOKIMI_RUN_DIR": RUN_DIR, "PYTHONPATH": "/opt/nanokimi/lib"},
)


@dataclass(frozen=True, slots=True)
class DockerSandbox:
    """A container with its streams attached."""

    info: SandboxInfo
    streams: AttachedStreams
    workspace: str = WORKSPACE
    bridge: Program = _BRIDGE


class DockerSpawner:
    """See :class:`~runner.sandbox.spawner.Spawner`. Make it with :meth:`open`."""

    def __init__(
        self, engine: Engine, layout: Layout, install: str, image: str, paths: HostPaths
    ) -> None:
        self._engine = engine
        self._layout = layout
        self._install = install
        self._image = image
        self._paths = paths
        self._owner: Owner = sandbox_owner()
        self._attached: dict[str, AttachedStreams] = {}
        self._open_network = ""

    @classmethod
    async def open(cls, layout: Layout, install: str, image: str) -> DockerSpawner:
        """Connect to the engine.

        Raises:
            EngineError: none answers; ConfigError: our paths are not the engine's.
        """
        engine = await Engine.connect()
        try:
            paths = await find_host_paths(engine, layout.root)
        except BaseException:
            await engine.close()
            raise
        return cls(engine, layout, install, image, paths)

    async def check(self) -> EngineReport:
        image = await self._engine.image(self._image)
        if image is None:
            raise _image_missing(self._image)
        return EngineReport(
            backend="docker",
            version=await self._engine.version(),
            isolation="container: no capabilities, read-only root, no network unless opened",
            image=self._image,
            stale=await asyncio.to_thread(is_stale, image.labels),
        )

    async def ensure(self, spec: SandboxSpec, generation: int) -> DockerSandbox:
        for extra in spec.extra_mounts:
            await asyncio.to_thread(check_extra, extra, self._layout.root)
        await asyncio.to_thread(prepare, self._layout, spec.folder, self._owner)
        network = await self._network_for(spec)
        body = create_body(
            spec,
            image=spec.image or self._image,
            install=self._install,
            generation=generation,
            owner=self._owner,
            mounts=[
                HostMount.of(m, self._paths.of(m.source, read_only=m.read_only))
                for m in plan(self._layout, spec)
            ],
            network=network,
        )
        ref = await self._create(spec, body, generation)
        try:
            # Content only now: the name is ours, so a newer generation does not read it.
            await asyncio.to_thread(project_config, self._layout, spec.folder, spec.config)
            await self.project(spec.folder, spec.credentials)
            if spec.network == "open":
                await join_shield(self._engine, ref)
            streams = await self._attach(ref, spec.folder)
            await self._start(ref)
        except BaseException:
            self._abort(ref)
            await asyncio.shield(self._remove(ref))
            raise
        info = SandboxInfo(ref, spec.group, spec.folder, generation, running=True)
        return DockerSandbox(info, streams)

    async def project(self, folder: str, credentials: Mapping[str, str]) -> None:
        await asyncio.to_thread(project_credentials, self._layout, folder, credentials)

    async def stop(self, info: SandboxInfo, *, grace: float) -> None:
        self._abort(info.ref)
        await self._engine.stop(info.ref, math.ceil(grace))
        await self._remove(info.ref)

    async def poll(self, info: SandboxInfo) -> SandboxStatus:
        state = await self._engine.state(info.ref)
        if state is None:
            return SandboxStatus(Running.ABSENT, detail="the container is gone")
        if state.running:
            return SandboxStatus(Running.RUNNING)
        streams = self._attached.get(info.ref)
        tail = streams.stderr_tail() if streams is not None else ""
        return SandboxStatus(
            Running.EXITED, state.exit_code, state.out_of_memory, detail_of(state, tail)
        )

    async def list(self) -> list[SandboxInfo]:
        try:
            found = await self._engine.containers(f"{LABEL_INSTALL}={self._install}")
        except RefusedError as e:
            raise as_engine_error(e) from None
        return [info_of(ref, labels, running=running) for ref, running, labels in found]

    async def adopt(self, info: SandboxInfo) -> DockerSandbox:
        self._abort(info.ref)
        state = await self._engine.state(info.ref)
        if state is None or not state.running:
            raise SandboxGoneError(f"the container {info.ref[:12]} does not run any more")
        return DockerSandbox(info, await self._attach(info.ref, info.folder))

    def volume(self, folder: str) -> LocalVolume:
        return LocalVolume(self._layout, folder, self._owner)

    async def close(self) -> None:
        for ref in list(self._attached):
            self._abort(ref)
        if self._open_network:  # an engine has room for some thirty networks only
            with contextlib.suppress(EngineError):
                await self._engine.remove_network(self._open_network)
        await self._engine.close()

    async def _network_for(self, spec: SandboxSpec) -> str:
        if spec.network == "isolated":
            return "none"
        if not self._open_network:
            self._open_network = await ensure_open_network(self._engine, self._install)
        return self._open_network

    async def _create(self, spec: SandboxSpec, body: dict[str, object], generation: int) -> str:
        """Take the group's name, ending an older holder first."""
        name = name_of(self._install, spec.folder)
        for _ in range(CREATE_TRIES):
            try:
                return await self._create_once(name, body)
            except RefusedError as e:
                if e.status == 404:
                    raise _image_missing(spec.image or self._image) from None
                if e.status != 409:
                    raise as_engine_error(e) from None
            holder = await self._engine.state(name)
            if holder is not None:
                self._check_older(name, holder, generation)
                self._abort(holder.ref)
                await self._engine.stop(holder.ref, math.ceil(LEFTOVER_GRACE))
                await self._remove(holder.ref)
        raise EngineError(f"the name {name} stays taken", hint=f"docker rm -f {name}")

    async def _create_once(self, name: str, body: dict[str, object]) -> str:
        creating = asyncio.ensure_future(self._engine.create(name, body))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            # The engine makes it all the same, and nobody else would know its id.
            with contextlib.suppress(RefusedError, EngineError):
                await self._remove(await creating)
            raise

    def _check_older(self, name: str, holder: ContainerState, generation: int) -> None:
        if holder.labels.get(LABEL_INSTALL) != self._install:
            raise ConflictError(
                f"the container {name} is not ours",
                hint=f"remove or rename it: docker rm -f {name}",
            )
        theirs = holder.labels.get(LABEL_GENERATION, "")
        if theirs.isdecimal() and int(theirs) > generation:
            raise ConflictError(
                f"generation {theirs} of {name} exists and we are {generation}",
                hint="another host serves this data directory; stop one of them",
            )

    async def _attach(self, ref: str, folder: str) -> AttachedStreams:
        log = AgentLog(self._layout.agent_log(folder))
        streams = await attach(self._engine.address, self._engine.api_version, ref, log)
        self._attached[ref] = streams
        return streams

    async def _start(self, ref: str) -> None:
        try:
            await self._engine.start(ref)
        except RefusedError as e:
            if e.status == 404:
                raise SandboxGoneError(f"the container did not start: {e}") from None
            raise EngineError(
                f"the container did not start: {e}",
                hint="does the command exist in the image? `nanokimi build` makes the usual one",
            ) from None

    async def _remove(self, ref: str) -> None:
        """Remove by force; a slot is free only when inspect says that the container is gone."""
        await self._engine.remove(ref)
        try:
            async with asyncio.timeout(REMOVE_DEADLINE):
                while await self._engine.state(ref) is not None:  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(REMOVE_POLL)
        except TimeoutError:
            raise EngineError(
                f"the container {ref[:12]} is still there {REMOVE_DEADLINE:g} seconds after its "
                "removal",
                hint="look at the engine's log; restart it if need be",
            ) from None
        self._attached.pop(ref, None)

    def _abort(self, ref: str) -> None:
        """Drop our connection first: the engine hangs on a client that does not read."""
        if (streams := self._attached.get(ref)) is not None:
            streams.abort()


def detail_of(state: ContainerState, tail: str) -> str:
    """How a container ended, in a sentence for people. Pure."""
    if state.out_of_memory:
        words = f"out of memory (exit code {state.exit_code})"
    elif state.status == "created":
        words = "never started"
    else:
        words = f"exit code {state.exit_code}"
    last = tail.strip()[-500:]
    return f"{words}; its last words: {last}" if last else words


def _image_missing(image: str) -> ImageMissingError:
    return ImageMissingError(f'the image "{image}" is not there', hint="run `nanokimi build`")
