"""Sandboxes as processes of this machine: in bubblewrap when it works, else plain."""

from __future__ import annotations

import asyncio
import compileall
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import runner
from runner.errors import ConfigError, ConflictError, EngineError, SandboxGoneError
from runner.sandbox.agentlog import AgentLog
from runner.sandbox.bubblewrap import command_line, probe, search_path
from runner.sandbox.child import Child, ChildStreams
from runner.sandbox.mounts import check_extra, plan
from runner.sandbox.record import (
    ProcessId,
    Record,
    Records,
    boot_id,
    identify,
    is_running,
    send_signal,
    tree,
    wait_ended,
)
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
from runner.sandbox.trees import remove_tree
from runner.sandbox.volume import LocalVolume
from runner.sandbox.volumes import (
    CONFIG_FILE,
    Owner,
    prepare,
    project_config,
    project_credentials,
    sandbox_owner,
)
from runner.settings.layout import Layout

Mode = Literal["bubblewrap", "plain"]

# -P: the workspace is a stranger's, so nothing is imported from there.
NATIVE_AGENT = (sys.executable, "-P", "-m", "runner.agent")
START_DEADLINE = 10.0
KILL_DEADLINE = 10.0
LEFTOVER_GRACE = 2.0
DRAIN_DEADLINE = 1.0


@dataclass(frozen=True, slots=True)
class ProcessSandbox:
    """A process with its streams; ``workspace`` is the real path in plain mode."""

    info: SandboxInfo
    streams: ChildStreams
    workspace: str
    bridge: Program


class ProcessSpawner:
    """See :class:`~runner.sandbox.spawner.Spawner`. Make it with :meth:`open`."""

    def __init__(self, layout: Layout, install: str, mode: Mode, *, why: str = "") -> None:
        self._layout = layout
        self._records = Records(layout, install)
        self._mode: Mode = mode
        self._why = why
        # Plain processes share our files, so giving those away would only lock the agent out.
        self._owner = sandbox_owner() if mode == "bubblewrap" else Owner(os.geteuid(), os.getegid())
        self._children: dict[str, Child] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @classmethod
    async def open(
        cls, layout: Layout, install: str, *, mode: Mode | None = None, why: str = ""
    ) -> ProcessSpawner:
        """Choose bubblewrap when it works here, else plain; ``mode`` insists on one.

        ``why`` says why no stronger backend was taken; it becomes part of the warning.

        Raises:
            EngineError: ``mode`` is "bubblewrap" and it does not work here.
        """
        problem = "" if mode == "plain" else await probe(sandbox_owner())
        if mode == "bubblewrap" and problem:
            raise EngineError(f"no bubblewrap: {problem}", hint="apt install bubblewrap")
        chosen = mode or ("plain" if problem else "bubblewrap")
        await asyncio.to_thread(_compile_agent)
        return cls(layout, install, chosen, why="; ".join(w for w in (why, problem) if w))

    async def check(self) -> EngineReport:
        because = f" ({self._why})" if self._why else ""
        if self._mode == "bubblewrap":
            return EngineReport(
                "process",
                "bubblewrap",
                "own namespaces, read-only system, no network unless opened; processes limited "
                "per sandbox, memory per process, no CPU limit",
                f"bubblewrap isolates less than a container: the kernel's limits on memory and "
                f'CPU do not hold, and network = "open" is the whole network of this machine'
                f"{because}",
            )
        who = "root" if os.geteuid() == 0 else "your user"
        return EngineReport(
            "process",
            "plain",
            f"none: runs as {who}, memory limited per process",
            f"agents run as {who} without a sandbox: they can read and change all that {who} can, "
            f"credentials and other groups included, and use the network; install Docker or "
            f"bubblewrap{because}",
        )

    async def ensure(self, spec: SandboxSpec, generation: int) -> ProcessSandbox:
        async with self._locks[spec.folder]:
            await self._end_leftover(spec.folder, generation)
            for extra in spec.extra_mounts:
                await asyncio.to_thread(check_extra, extra, self._layout.root)
            await asyncio.to_thread(prepare, self._layout, spec.folder, self._owner)
            await asyncio.to_thread(project_config, self._layout, spec.folder, spec.config)
            await self.project(spec.folder, spec.credentials)
            start = self._start_bubblewrap if self._mode == "bubblewrap" else self._start_plain
            return await start(spec, generation)

    async def project(self, folder: str, credentials: Mapping[str, str]) -> None:
        await asyncio.to_thread(project_credentials, self._layout, folder, credentials)

    async def stop(self, info: SandboxInfo, *, grace: float) -> None:
        async with self._locks[info.folder]:
            record = self._records.read(info.folder)
            if record is not None and record.process.ref == info.ref:
                await self._end(record, grace)

    async def poll(self, info: SandboxInfo) -> SandboxStatus:
        record = self._records.read(info.folder)
        if record is None or record.process.ref != info.ref:
            return SandboxStatus(Running.ABSENT, detail="the process is gone")
        if record.info().running:
            return SandboxStatus(Running.RUNNING)
        child = self._children.get(info.ref)
        if child is None:
            return SandboxStatus(Running.EXITED, detail="ended while no host was there")
        await child.ended(KILL_DEADLINE)
        await child.streams.drained(DRAIN_DEADLINE)
        last = child.streams.stderr_tail().strip()[-500:]
        words = f"exit code {child.exit_code}"
        return SandboxStatus(
            Running.EXITED,
            child.exit_code,
            detail=f"{words}; its last words: {last}" if last else words,
        )

    async def list(self) -> list[SandboxInfo]:
        return [record.info() for record in await asyncio.to_thread(self._records.all)]

    async def adopt(self, info: SandboxInfo) -> ProcessSandbox:
        raise SandboxGoneError(
            "the streams of a process end with the host that started it",
            hint="stop it and resume the session in a new sandbox",
        )

    def volume(self, folder: str) -> LocalVolume:
        return LocalVolume(self._layout, folder, self._owner)

    async def close(self) -> None:
        """Drop the streams: agents see the end of their stdin."""
        for child in self._children.values():
            child.streams.abort()

    async def _end_leftover(self, folder: str, generation: int) -> None:
        record = self._records.read(folder)
        if record is None:
            return
        if record.generation > generation:
            raise ConflictError(
                f"generation {record.generation} of {folder} exists and we are {generation}",
                hint="another host serves this data directory; stop one of them",
            )
        await self._end(record, LEFTOVER_GRACE)

    async def _start_bubblewrap(self, spec: SandboxSpec, generation: int) -> ProcessSandbox:
        read_end, write_end = os.pipe()
        try:
            child = await Child.start(
                command_line(
                    spec.command or NATIVE_AGENT,
                    mounts=plan(self._layout, spec),
                    network=spec.network,
                    limits=spec.limits,
                    owner=self._owner,
                    as_root=os.geteuid() == 0,
                    info_fd=write_end,
                ),
                cwd=self._layout.root,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                log=AgentLog(self._layout.agent_log(spec.folder)),
                pass_fds=(write_end,),
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        try:
            process = await _inner_process(read_end, child)
            return await self._register(spec, generation, child, process, WORKSPACE, home="")
        except BaseException:
            child.close()
            raise

    async def _start_plain(self, spec: SandboxSpec, generation: int) -> ProcessSandbox:
        if spec.extra_mounts:
            raise ConfigError(
                "extra mounts need Docker or bubblewrap",
                hint="install one of them, or take the mounts out of the group",
            )
        workspace = str(self._layout.workspace(spec.folder))
        home = await asyncio.to_thread(_make_home, self._layout, spec.folder)
        try:
            child = await Child.start(
                [*_memory_limit(spec.limits.memory), *(spec.command or NATIVE_AGENT)],
                cwd=Path(workspace),
                env={
                    "HOME": f"{home}/home",
                    "PATH": search_path(),
                    "LANG": "C.UTF-8",
                    "NANOKIMI_RUN_DIR": f"{home}/run",
                },
                log=AgentLog(self._layout.agent_log(spec.folder)),
            )
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        try:
            process = identify(child.pid) or ProcessId(child.pid, 0)
            return await self._register(spec, generation, child, process, workspace, home=home)
        except BaseException:
            child.close()
            raise

    async def _register(
        self, spec: SandboxSpec, generation: int, child: Child, process: ProcessId,
        workspace: str, *, home: str,
    ) -> ProcessSandbox:  # fmt: skip
        record = Record(
            boot_id(), process.pid, process.started, spec.group, spec.folder, generation, home
        )
        await asyncio.to_thread(self._records.write, record)
        self._children[process.ref] = child
        info = SandboxInfo(process.ref, spec.group, spec.folder, generation, running=True)
        place = {"HOME": f"{home}/home", "NANOKIMI_RUN_DIR": f"{home}/run"}
        inside = {"HOME": HOME, "NANOKIMI_RUN_DIR": RUN_DIR}
        bridge = Program(sys.executable, BRIDGE, place if home else inside)
        return ProcessSandbox(info, child.streams, workspace, bridge)

    async def _end(self, record: Record, grace: float) -> None:
        """SIGTERM, ``grace`` seconds, SIGKILL for the whole tree; then forget it."""
        process = record.process
        child = self._children.get(process.ref)
        if child is not None:
            child.streams.abort()
        home = f"{record.home}/home" if record.home else ""
        if record.boot == boot_id():
            family = await asyncio.to_thread(tree, process.pid, home) if record.home else [process]
            if send_signal(process, signal.SIGTERM):
                await asyncio.to_thread(wait_ended, process, grace)
            await asyncio.to_thread(_kill_all, process, family, home)
        if child is not None:
            if not await child.ended(KILL_DEADLINE):
                raise EngineError(f"the process {child.pid} does not end")
            child.close()
            self._children.pop(process.ref, None)
        if record.home:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(remove_tree, Path(record.home))
        self._records.remove(record.folder)


async def _inner_process(read_end: int, child: Child) -> ProcessId:
    """The agent's own process, from what bubblewrap says about it."""
    with os.fdopen(read_end, "rb") as pipe:
        try:
            async with asyncio.timeout(START_DEADLINE):
                raw = await asyncio.to_thread(pipe.read)
        except TimeoutError:
            raise EngineError(f"bwrap said nothing in {START_DEADLINE:g} seconds") from None
    try:
        pid = int(json.loads(raw)["child-pid"])
    except (ValueError, KeyError):
        await child.ended(START_DEADLINE)
        await child.streams.drained(DRAIN_DEADLINE)
        raise EngineError(
            f"bwrap failed: {child.streams.stderr_tail().strip()[-500:]}",
            hint='set [sandbox] backend = "docker", or look at `nanokimi doctor`',
        ) from None
    return identify(pid) or ProcessId(pid, 0)  # 0: it has ended already


def _compile_agent() -> None:
    """Write the agent's byte code now: a sandbox sees it read-only and could never keep it."""
    compileall.compile_dir(Path(runner.__file__).parent / "agent", quiet=2)


def _memory_limit(memory: int) -> list[str]:
    return ["prlimit", f"--data={memory}", "--core=0", "--"] if shutil.which("prlimit") else []


def _make_home(layout: Layout, folder: str) -> str:
    """Plain mode's home: links to the group's directories, short enough for socket paths."""
    home = Path(tempfile.mkdtemp(prefix="nanokimi-"))
    kimi = home / "home" / ".kimi"
    kimi.mkdir(parents=True)
    (kimi / "config").symlink_to(layout.config_projection(folder))
    (kimi / CONFIG_FILE).symlink_to(f"config/{CONFIG_FILE}")
    (kimi / "credentials").symlink_to(layout.credentials_projection(folder))
    (kimi / "sessions").symlink_to(layout.sessions(folder))
    (home / "run").symlink_to(layout.socket_dir(folder))
    return str(home)


def _kill_all(process: ProcessId, family: list[ProcessId], home: str) -> None:
    """SIGKILL all of a sandbox's processes and wait for their end.

    In bubblewrap the kernel ends the whole namespace with its first process. In plain mode new
    processes may appear while we look, so we look until nothing is left.
    """
    while True:
        left = [p for p in family if is_running(p)]
        if not left:
            return
        for one in left:
            send_signal(one, signal.SIGKILL)
        for one in left:
            if not wait_ended(one, KILL_DEADLINE):
                raise EngineError(f"the process {one.pid} does not end after SIGKILL")
        family = tree(process.pid, home) if home else [process]
