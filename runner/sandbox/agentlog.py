"""What an agent writes to stderr: the last words in memory, all of it in a file with a cap."""

from __future__ import annotations

import os
from pathlib import Path

FILE_LIMIT = 5 * 1024 * 1024
TAIL_LIMIT = 8 * 1024


class AgentLog:
    """Appends to ``path`` and keeps one older file (``.1``): twice ``limit`` bytes at most.

    A log that cannot be written never ends a sandbox: the tail says so and writing stops.
    """

    def __init__(self, path: Path, *, limit: int = FILE_LIMIT, tail: int = TAIL_LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._tail_limit = tail
        self._tail = bytearray()
        self._fd: int | None = None
        self._size = 0
        self._broken = False

    def write(self, data: bytes) -> None:
        self._remember(data)
        if self._broken:
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
        if self._fd is not None and self._size + len(data) > self._limit:
            self.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        if self._fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
            self._size = os.fstat(self._fd).st_size
        self._size += os.write(self._fd, data)
