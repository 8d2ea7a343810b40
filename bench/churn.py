"""A hundred sandboxes, one after another: what of them stays behind in the engine and in the host.

The host is looked at after the first few, when its caches are warm, and again after all.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from bench.finding import Budget, Finding, Skipped, Spread
from bench.memory import tree
from bench.rig import Host, docker, engine, host, provider
from runner.host.lock import serving
from runner.sandbox.container import LABEL_INSTALL

SANDBOXES, QUICK_SANDBOXES = 100, 20
WARM = 10
MB = 1_000_000
GROWTH_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class _Held:
    """What the host's process holds: open files, threads, and memory in MB."""

    files: int
    threads: int
    memory: float

    @classmethod
    def of(cls, pid: int) -> _Held:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        return cls(
            len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208  /proc is not a tree of files
            int(status["Threads"]),
            int(status["VmRSS"].split()[0]) * 1024 / MB,
        )


def measure(*, quick: bool) -> list[Finding]:
    """Raises: Skipped: no engine; carries what the process host did."""
    count = QUICK_SANDBOXES if quick else SANDBOXES
    found = _churn("process", count)
    try:
        engine()
    except Skipped as e:
        raise Skipped(f"docker: {e}", but=found) from None
    return [*_churn("docker", count), *found]


def _churn(backend: str, count: int) -> list[Finding]:
    with provider() as model, host(model, backend) as at:
        told = serving(at.layout.host_lock)
        assert told is not None
        _through(at, "warm", WARM)
        before = _Held.of(told.pid)
        _through(at, "churn", count)
        after = _Held.of(told.pid)
        left = _left(at, backend, told.pid)
    growth = after.memory - before.memory
    return [
        Finding(
            f"{count} sandboxes made and ended, {backend}: left behind",
            Spread.of([left]),
            "containers, processes, sockets",
            f"files {before.files} → {after.files}, threads {before.threads} → {after.threads}",
            (
                Budget("left", left, 0),
                Budget("files", after.files - before.files, 5),
                Budget("threads", after.threads - before.threads, 5),
            ),
        ),
        Finding(
            f"{count} sandboxes made and ended, {backend}: the host grew by",
            Spread.of([growth]),
            "MB",
            f"{before.memory:.0f} MB → {after.memory:.0f} MB",
            (Budget("MB", growth, GROWTH_LIMIT),),
        ),
    ]


def _through(at: Host, name: str, count: int) -> None:
    for n in range(count):
        group = f"{name} {n}"
        at.api.turn(group, "hello")
        at.api.stop(group)


def _left(at: Host, backend: str, pid: int) -> int:
    """Sockets in run directories, processes below the host, containers of its install."""
    left = len(list(at.layout.run.glob("*/*/*.sock"))) + len(tree(pid)) - 1
    if backend == "docker":
        with contextlib.closing(sqlite3.connect(at.layout.database)) as db:
            (install,) = db.execute("SELECT value FROM meta WHERE key = 'install_id'").fetchone()
        refs = docker("ps", "--all", "--quiet", "--filter", f"label={LABEL_INSTALL}={install}")
        left += len(refs.split())
    return left
