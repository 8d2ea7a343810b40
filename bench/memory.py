"""Memory of a warm sandbox that waits: what the kernel charges to its cgroup, less page cache.

https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/memory.html
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from bench.finding import Budget, Finding, Skipped, Spread
from bench.http import Failed
from bench.rig import directory, docker, engine, host, provider
from runner.model import folder_of
from runner.sandbox.container import LABEL_FOLDER

LIMIT = 30.0
MB = 1_000_000
SANDBOXES, QUICK_SANDBOXES = 5, 2
CGROUPS = Path("/sys/fs/cgroup")


def measure(*, quick: bool) -> list[Finding]:
    """Raises: Skipped."""
    engine()
    taken: list[float] = []
    with provider() as model, host(model, "docker") as serving:
        for _ in range(QUICK_SANDBOXES if quick else SANDBOXES):
            group = f"memory {secrets.token_hex(4)}"
            serving.api.turn(group, "write 'some words' to notes.txt and read it back")
            taken.append(_charged(_pid_of(group)) / MB)
            serving.api.stop(group)
    value = Spread.of(taken)
    return [
        Finding(
            "memory of an idle warm sandbox, docker",
            value,
            "MB",
            against=_kimi_code(),
            budgets=(Budget("MB", value.median, LIMIT),),
        )
    ]


def anonymous_of_agent(command: list[str], home: Path) -> int:
    """Bytes that an ACP agent and its children hold of their own once it said hello.

    Raises:
        Failed: it ended instead.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, "HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        hello = {"protocolVersion": 1, "clientCapabilities": {}}
        frame = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        process.stdin.write(json.dumps(frame).encode() + b"\n")
        process.stdin.flush()
        if not process.stdout.readline():
            raise Failed(f"{command[0]} ended before it said hello")
        return sum(anonymous(pid) for pid in tree(process.pid))
    finally:
        process.kill()
        process.communicate()


def _kimi_code() -> str:
    kimi = shutil.which("kimi")
    if kimi is None:
        return "Kimi Code CLI is not installed here"
    with directory() as home:
        try:
            theirs = anonymous_of_agent([kimi, "acp"], home)
        except Failed as e:
            return f"Kimi Code CLI: {e}"
    return f"{kimi} acp as a process: {theirs / MB:.0f} MB"


def _pid_of(group: str) -> int:
    label = f"label={LABEL_FOLDER}={folder_of(group)}"
    ref = docker("ps", "--quiet", "--no-trunc", "--filter", label)
    return int(docker("inspect", "--format", "{{.State.Pid}}", ref))


def _charged(pid: int) -> int:
    """Bytes charged to the cgroup of ``pid`` less its page cache. Raises: Skipped."""
    try:
        cgroups = Path(f"/proc/{pid}/cgroup").read_text()
        for line in cgroups.splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                at = CGROUPS / "memory" / path.lstrip("/")
                total = int((at / "memory.usage_in_bytes").read_text())
                return total - _stat(at)["total_cache"]
        at = CGROUPS / cgroups.rpartition("0::/")[2].strip()
        return int((at / "memory.current").read_text()) - _stat(at)["file"]
    except OSError as e:
        raise Skipped(f"the container's cgroup cannot be read here ({e})") from None


def _stat(at: Path) -> dict[str, int]:
    lines = (at / "memory.stat").read_text().splitlines()
    return {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}


def tree(root: int) -> list[int]:
    """A process and all that came of it."""
    found = [root]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def anonymous(pid: int) -> int:
    """Bytes that a process holds of its own. Raises: Failed."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise Failed(f"{sys.platform} does not say what process {pid} holds")
