"""One host per data directory: a lock file that also tells others where the host listens."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runner.errors import ConflictError


@dataclass(frozen=True, slots=True)
class Serving:
    """The host that holds the lock; ``url`` is empty while it starts."""

    pid: int
    url: str


class HostLock:
    """Held for the life of a host; the kernel lets go of it when the process dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def announce(self, url: str) -> None:
        """Say where the API of this host is."""
        text = json.dumps({"pid": os.getpid(), "url": url}).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)


@contextmanager
def host_lock(path: Path) -> Iterator[HostLock]:
    """Hold the lock inside the block.

    Raises:
        ConflictError: another host serves this data directory.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = serving(path)
            raise ConflictError(
                f"another nanokimi (pid {other.pid if other else '?'}) serves {path.parent.parent}",
                hint="use that one, end it, or choose another directory with --data",
                code="already_serving",
            ) from None
        lock = HostLock(descriptor)
        lock.announce("")
        try:
            yield lock
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def serving(path: Path) -> Serving | None:
    """Who holds the lock, or ``None``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            try:
                told = json.loads(os.pread(descriptor, 4096, 0))
                return Serving(int(told["pid"]), str(told["url"]))
            except (ValueError, KeyError, TypeError):
                return Serving(0, "")
        return None
    finally:
        os.close(descriptor)
