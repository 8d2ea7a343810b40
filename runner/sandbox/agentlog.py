"""What an agent writes to stderr: the last words in memory, all of it in a file with a cap.

Each line of the file begins with the time at which the host got its first byte, in UTC:
``2026-11-20T11:02:25.123Z text``. The host writes that, so no agent can have it say anything else.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

FILE_LIMIT = 5 * 1024 * 1024
TAIL_LIMIT = 8 * 1024
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ")


class AgentLog:
    """Appends to ``path`` and keeps one older file (``.1``): twice ``limit`` bytes at most.

    A log that cannot be written never ends a sandbox: the tail says so and writing stops.
    ``now`` gives Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit: int = FILE_LIMIT,
        tail: int = TAIL_LIMIT,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._limit = limit
        self._tail_limit = tail
        self._now = now
        self._tail = bytearray()
        self._fd: int | None = None
        self._size = 0
        self._line_ended = True
        self._broken = False

    def write(self, data: bytes) -> None:
        self._remember(data)
        if self._broken or not data:
            return
        try:
            self._append(data[-self._limit :])
        except OSError as e:
            self._broken = True
            self.close()
            self._remember(f"\n[log file {self._path.name}: {e.strerror}]\n".encode())

    def tail(self) -> str:
        return self._tail.decode("utf-8", "replace")

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _remember(self, data: bytes) -> None:
        self._tail += data[-self._tail_limit :]
        del self._tail[: -self._tail_limit]

    def _append(self, data: bytes) -> None:
        stamp = _stamp(self._now())
        if self._fd is None:
            self._open()
        lines = _stamped(data, stamp, new_line=self._line_ended)
        if self._size and self._size + len(lines) > self._limit:
            self.close()
            self._path.replace(older_file(self._path))
            self._open()
            lines = _stamped(data, stamp, new_line=True)
        self._line_ended = data.endswith(b"\n")
        assert self._fd is not None
        self._size += os.write(self._fd, lines[-self._limit :])

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            self._size += os.write(self._fd, b"\n")  # the last words of the sandbox before
        self._line_ended = True


def older_file(path: Path) -> Path:
    """Where a log goes when it is full."""
    return path.with_name(f"{path.name}.1")


def split_line(line: str) -> tuple[datetime | None, str]:
    """The time of a line of the file, and what the agent wrote. Older files have lines without."""
    found = _STAMP.match(line)
    if found is None:
        return None, line
    try:
        return datetime.fromisoformat(found[1]), line[found.end() :]
    except ValueError:
        return None, line


def _stamp(at: float) -> bytes:
    written = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return written.replace("+00:00", "Z ").encode()


def _stamped(data: bytes, stamp: bytes, *, new_line: bool) -> bytes:
    """``data`` with ``stamp`` at the beginning of each line; ``new_line``: it begins with one."""
    end = b"\n" if data.endswith(b"\n") else b""
    lines = data.removesuffix(b"\n").replace(b"\n", b"\n" + stamp) + end
    return stamp + lines if new_line else lines
