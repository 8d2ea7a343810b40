"""Files that agents sent: the host's own copies, until they are too old or too many.

The bytes are on disk before the row that names them, and the row goes before the bytes do: what a
crash leaves in between is bytes without a row, and :meth:`SentFiles.sweep` removes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from runner.host.shelf import UNFINISHED, age, batches, explained, make_directory
from runner.sandbox.beneath import create
from runner.sandbox.spawner import Spawner
from runner.settings.layout import Layout
from runner.store import Store, files

FILES_KEPT = 50
"""A group's files take at most this many times ``[tools.send_file] max_size``; the oldest go."""

_AT_ONCE = 2
_EXPIRED_AT_ONCE = 500


class SentFiles:
    """The shelves of all groups. Copies two files at a time, so that others have a disk too."""

    def __init__(self, layout: Layout, store: Store, spawner: Spawner) -> None:
        self._layout = layout
        self._store = store
        self._spawner = spawner
        self._copying = asyncio.Semaphore(_AT_ONCE)

    async def take(self, folder: str, path: str, limit: int) -> tuple[str, int]:
        """Copy a file of the group's workspace; the copy's id, and its size in bytes.

        Raises:
            NotFoundError, PermanentError: there is none, or it may not be sent.
            TemporaryError: the disk is full.
        """
        volume = self._spawner.volume(folder)
        file_id = f"file_{secrets.token_hex(12)}"

        def work() -> int:
            size = 0

            def fill(fd: int) -> None:
                nonlocal size
                size = volume.copy_out(path, fd, limit)

            shelf = self._layout.files(folder)
            with make_directory(self._layout.root, shelf) as fd, explained("the file"):
                create(fd, file_id, fill)
            return size

        async with self._copying:
            return file_id, await asyncio.to_thread(work)

    def path(self, folder: str, file_id: str) -> Path:
        """Where the bytes of a file are that the store knows."""
        return self._layout.files(folder) / file_id

    def discard(self, folder: str, file_ids: Sequence[str]) -> None:
        """Remove the bytes of files that no row names; what stays is the sweep's."""
        for file_id in file_ids:
            with contextlib.suppress(OSError):
                self.path(folder, file_id).unlink(missing_ok=True)

    async def sweep(self, keep: float) -> int:
        """Remove files older than ``keep`` seconds, and bytes without a row; says how many."""
        before = time.time() - keep
        gone = 0
        while found := await self._store.transact(
            lambda c: files.expire(c, before, _EXPIRED_AT_ONCE)
        ):
            for folder, file_id in found:
                self.discard(folder, [file_id])
            gone += len(found)
        for batch in batches(self._layout.root / "files"):
            gone += await self._sweep_orphans(batch)
        return gone

    async def _sweep_orphans(self, batch: list[Path]) -> int:
        names = [path.name for path in batch]
        known = await self._store.read(lambda c: files.known(c, names))
        orphans = [p for p in batch if p.name not in known and age(p) > UNFINISHED]
        for path in orphans:
            path.unlink(missing_ok=True)
        return len(orphans)
