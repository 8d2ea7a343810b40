"""What the host asks of any backend that can run an agent.

A backend is told *what* to run by a :class:`SandboxSpec` (contents and opaque volume names, never
host paths) and decides *how*: a container, a process, later a pod. The same conformance tests run
on each (``tests/integration/test_spawner_conformance.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from runner.model import ExtraMount as ExtraMount
from runner.model import Limits as Limits
from runner.sandbox.trees import Usage as Usage
from runner.settings.layout import HOST_SOCKET as HOST_SOCKET
from runner.wire.peer import Channel as ByteStreams

# Where things are inside a sandbox, whatever the backend.
HOME = "/home/agent"
CONFIG_DIR = f"{HOME}/.kimi/config"
CREDENTIALS_DIR = f"{HOME}/.kimi/credentials"
SESSIONS_DIR = f"{HOME}/.kimi/sessions"
WORKSPACE = "/workspace"
RUN_DIR = "/run/nanokimi"

Network = Literal["isolated", "open"]


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One sandbox as the host wants it.

    ``folder`` names the group's volumes and run directory; ``config`` is the text of the projected
    ``config.toml`` and ``credentials`` the projected files by name: both are content, and the
    backend brings them in read-only. ``command`` empty means the native agent.
    """

    group: str
    folder: str
    config: str
    credentials: Mapping[str, str] = field(repr=False)
    limits: Limits
    network: Network = "isolated"
    image: str = ""
    command: tuple[str, ...] = ()
    extra_mounts: tuple[ExtraMount, ...] = ()


class Running(StrEnum):
    """What :meth:`Spawner.poll` says of a sandbox."""

    RUNNING = "running"
    EXITED = "exited"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """``detail`` is a sentence for people: exit code, out of memory, the last words on stderr."""

    running: Running
    exit_code: int | None = None
    out_of_memory: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """One sandbox of this install as the engine lists it; ``ref`` is the engine's own id."""

    ref: str
    group: str
    folder: str
    generation: int
    running: bool


class AgentStreams(ByteStreams, Protocol):
    """Stdin and stdout of the agent, and the tail of its stderr."""

    def abort(self) -> None:
        """Drop the connection at once, unread bytes and all. Safe to call twice."""
        ...

    def stderr_tail(self) -> str:
        """The last few KB the agent wrote to stderr, for error messages."""
        ...


@dataclass(frozen=True, slots=True)
class Program:
    """How an agent starts a program of its sandbox: an absolute path, then the rest."""

    path: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


BRIDGE = ("-P", "-m", "runner.agent.bridge")
"""Arguments of Python that make the host's tools an MCP server on stdin and stdout."""


class Sandbox(Protocol):
    """A running sandbox with its streams attached."""

    @property
    def info(self) -> SandboxInfo: ...

    @property
    def streams(self) -> AgentStreams: ...

    @property
    def workspace(self) -> str:
        """Path of the group's workspace as the agent sees it: the ``cwd`` of its sessions."""
        ...

    @property
    def bridge(self) -> Program:
        """The MCP server of the host's tools, for agents that are not ours."""
        ...


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What :meth:`Spawner.check` found. ``isolation`` says in a few words how strong it is.

    ``image`` is that of the agents, empty where there is none; ``stale``: another release has
    built it.
    """

    backend: str
    version: str
    isolation: str
    warning: str = ""
    image: str = ""
    stale: bool = False


class Volume(Protocol):
    """A group's files as the host reaches them, whatever the stranger inside does to them.

    Every call blocks, and raises :class:`~runner.errors.TemporaryError` when the disk is full or
    does not answer.
    """

    def copy_out(self, path: str, target: int, limit: int) -> int:
        """Copy a file of the workspace to the descriptor ``target``; the number of bytes.

        Raises:
            NotFoundError: there is none.
            PermanentError: it is no regular file, leads out, or has more than ``limit`` bytes.
        """
        ...

    def bring_in(self, directory: Sequence[str], name: str, source: int) -> None:
        """Make a file of the workspace from the descriptor ``source``, owned by the agent.

        ``directory`` and ``name`` are safe names. Nothing happens when it is there already; what
        else has one of the names is moved aside.
        """
        ...

    def measure(self, max_entries: int, deadline: float) -> Usage:
        """What workspace and sessions take, in bytes of the disk; see ``trees.measure``."""
        ...

    def remove(self) -> None:
        """Workspace, sessions and all; the sandbox has to be gone."""
        ...


class Spawner(Protocol):
    """Lifecycle of sandboxes. Every call has a deadline; names are deterministic per group.

    Errors: :class:`~runner.errors.EngineError` (engine silent or refusing: try later),
    :class:`~runner.errors.ImageMissingError`, :class:`~runner.errors.ConflictError` (a newer
    generation of this group exists: we are the stale one),
    :class:`~runner.errors.SandboxGoneError` (it ended before it could be attached).
    """

    async def check(self) -> EngineReport:
        """Reach the engine and the image, or raise the error that says the fix."""
        ...

    async def ensure(self, spec: SandboxSpec, generation: int) -> Sandbox:
        """Create, attach and start the group's sandbox of this ``generation``.

        Creation is atomic: the group's name is the lock. A leftover of an older generation is
        stopped first and its removal confirmed; a newer one raises ``ConflictError``.
        """
        ...

    async def project(self, folder: str, credentials: Mapping[str, str]) -> None:
        """Replace the credentials that a running sandbox sees: each file by atomic rename."""
        ...

    async def stop(self, info: SandboxInfo, *, grace: float) -> None:
        """SIGTERM, ``grace`` seconds later SIGKILL; returns when removal is confirmed.

        Drop the streams first. A sandbox that is already gone is fine.
        """
        ...

    async def poll(self, info: SandboxInfo) -> SandboxStatus: ...

    async def list(self) -> list[SandboxInfo]:
        """Every sandbox with this install's label, running or not."""
        ...

    async def adopt(self, info: SandboxInfo) -> Sandbox:
        """Attach again to a running sandbox after a restart of the host.

        Raises:
            SandboxGoneError: this backend cannot, or it is gone; end it and resume in a new one.
        """
        ...

    def volume(self, folder: str) -> Volume:
        """The way to a group's files; nothing is touched yet."""
        ...

    async def close(self) -> None:
        """Let go of the engine. Sandboxes are not touched; networks that none uses any more go."""
        ...
