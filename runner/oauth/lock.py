"""A lock between processes that an event loop can wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import filelock

from runner.errors import PermanentError, TemporaryError

POLL = 0.02


@asynccontextmanager
async def process_lock(path: Path, deadline: float) -> AsyncIterator[None]:
    """Hold the lock file ``path``; it is released by the system when this process dies.

    Polled, so that the loop never blocks and the ``deadline`` (seconds) holds.

    Raises:
        TemporaryError: another process did not let go in time.
        PermanentError: the lock file cannot be opened.
    """
    lock = filelock.FileLock(path, mode=0o600, thread_local=False)
    give_up = time.monotonic() + deadline
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except filelock.Timeout:
            if time.monotonic() >= give_up:
                raise TemporaryError(
                    f"another process has held {path} for {deadline:g} s",
                    hint="find and end the process that hangs",
                    code="credentials_locked",
                    retry_after=deadline,
                ) from None
        except OSError as e:
            raise PermanentError(
                f"{path} cannot be locked: {e.strerror or e}",
                hint=f"make {path.parent} writable",
                code="credentials_not_writable",
            ) from None
        await asyncio.sleep(POLL)
    try:
        yield
    finally:
        lock.release()
