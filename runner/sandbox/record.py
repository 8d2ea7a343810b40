"""What is known of a sandbox process on disk, so that a new host finds what an old one left.

One small JSON file per group and install in the group's run directory. A process is named by pid
and start time, so a pid that was used again never gets a signal meant for another.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runner.sandbox.spawner import SandboxInfo
from runner.sandbox.volumes import directory, write_atomic
from runner.settings.layout import Layout


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process of this boot; ``started`` is its start time in clock ticks since then."""

    pid: int
    started: int

    @property
    def ref(self) -> str:
        return f"{self.pid}:{self.started}"


@dataclass(frozen=True, slots=True)
class Record:
    """``boot`` tells processes of another boot; ``home`` is plain mode's directory, else empty."""

    boot: str
    pid: int
    started: int
    group: str
    folder: str
    generation: int
    home: str

    @property
    def process(self) -> ProcessId:
        return ProcessId(self.pid, self.started)

    def info(self) -> SandboxInfo:
        running = self.boot == boot_id() and is_running(self.process)
        return SandboxInfo(
            self.process.ref, self.group, self.folder, self.generation, running=running
        )


class Records:
    """The records of one install. Blocking, a few small files."""

    def __init__(self, layout: Layout, install: str) -> None:
        self._layout = layout
        self._name = f"sandbox-{install[:32]}.json"

    def write(self, record: Record) -> None:
        """Durable when it returns."""
        data = msgspec.json.encode(record)
        with directory(self._layout.root, self._layout.group_run(record.folder), 0o700) as fd:
            write_atomic(fd, self._name, data, 0o600)

    def read(self, folder: str) -> Record | None:
        """The group's record; ``None`` when there is none or it is torn."""
        try:
            raw = (self._layout.group_run(folder) / self._name).read_bytes()
            return msgspec.json.decode(raw, type=Record)
        except (OSError, msgspec.DecodeError):
            return None

    def remove(self, folder: str) -> None:
        (self._layout.group_run(folder) / self._name).unlink(missing_ok=True)

    def all(self) -> list[Record]:
        found = (self.read(path.parent.name) for path in self._layout.run.glob(f"*/{self._name}"))
        return [record for record in found if record is not None]


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid now; ``None`` when there is none or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before may hold blanks and brackets
    if fields[0] in ("Z", "X"):
        return None
    return ProcessId(pid, int(fields[19]))


def is_running(process: ProcessId) -> bool:
    return identify(process.pid) == process


def send_signal(process: ProcessId, number: signal.Signals) -> bool:
    """Signal exactly this process; ``False`` when it has ended."""
    with _pidfd(process) as fd:
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        return True


def wait_ended(process: ProcessId, deadline: float) -> bool:
    """Wait at most ``deadline`` seconds for any process to end. Blocking."""
    with _pidfd(process) as fd:
        if fd is None:
            return True
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(max(0, int(deadline * 1000))))


def tree(root: int, home: str) -> list[ProcessId]:
    """Every process that ``root`` started, and every process with ``home`` as its ``HOME``.

    The second half finds what left the tree by forking twice.
    """
    parents: dict[int, int] = {}
    marked: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        pid = int(entry.name)
        with contextlib.suppress(OSError, IndexError, ValueError):
            stat = (entry / "stat").read_text("utf-8", "replace")
            parents[pid] = int(stat.rpartition(")")[2].split()[1])
            if home and f"HOME={home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                marked.add(pid)
    found = marked | {root}
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        found |= children
        grown = bool(children)
    identified = (identify(pid) for pid in sorted(found - {os.getpid()}))
    return [process for process in identified if process is not None]


@contextlib.contextmanager
def _pidfd(process: ProcessId) -> Iterator[int | None]:
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Looked at after opening: what the descriptor holds cannot change any more.
        yield fd if is_running(process) else None
    finally:
        os.close(fd)
