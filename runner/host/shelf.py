"""Directories of the host's own where files of groups lie: made durably, read in small batches."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import structlog

from runner.errors import NanokimiError, TemporaryError
from runner.sandbox.trees import remove_tree
from runner.sandbox.volumes import directory
from runner.settings.layout import Layout

log = structlog.get_logger()

BATCH = 200
SWEEP_EVERY = 3600.0
UNFINISHED = 3600.0
"""Seconds for which what no row knows may still be somebody's work."""

_PRIVATE = 0o700


@contextlib.contextmanager
def make_directory(root: Path, path: Path) -> Iterator[int]:
    """A descriptor of ``path`` below ``root``, made and on disk when it was missing. Blocking.

    Raises:
        TemporaryError: the disk is full, or does not let us.
    """
    with explained(path.name):
        new = not path.exists()
        with directory(root, path, _PRIVATE) as fd:
            if new:
                above = path.parent
                while above != root.parent:
                    _sync(above)
                    above = above.parent
            yield fd


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """What the disk refuses, as an error of ours that may pass."""
    try:
        yield
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        raise TemporaryError(
            f"{what} cannot be written: {e.strerror}",
            hint="free some space" if full else "mend owner and mode of the data directory",
            code="disk_full" if full else "data_directory",
        ) from None


def remove_shelves(layout: Layout, folder: str) -> None:
    """Remove what the host itself keeps of a group: files both ways, and the agent's log. Blocking.

    Raises:
        TemporaryError: some of it cannot be removed.
    """
    try:
        remove_tree(layout.files(folder))
        remove_tree(layout.attachments(folder))
        for log_file in layout.agent_log(folder).parent.glob(f"{folder}.log*"):
            log_file.unlink(missing_ok=True)
    except OSError as e:
        raise TemporaryError(
            f"the group's files cannot be removed: {e}",
            hint="mend their owner or mode, and try again",
            code="files_not_removed",
        ) from None


class Swept(Protocol):
    """A kind of files that grow too old."""

    async def sweep(self, keep: float) -> int:
        """Remove those older than ``keep`` seconds, and what a crash left; says how many."""
        ...


async def keep_swept(shelves: Mapping[str, Swept], keep: Callable[[], float]) -> None:
    """Sweep at once and then every hour, until cancelled. ``keep`` is in seconds."""
    while True:
        for name, shelf in shelves.items():
            try:
                if gone := await shelf.sweep(keep()):
                    log.info("files.swept", shelf=name, count=gone)
            except (NanokimiError, OSError) as e:
                log.warning("files.not_swept", shelf=name, error=str(e))
        await asyncio.sleep(SWEEP_EVERY)


def batches(shelf: Path) -> Iterator[list[Path]]:
    """What lies two levels below ``shelf``, a few paths at a time."""
    found: list[Path] = []
    for folder in _entries(shelf):
        for path in _entries(folder):
            found.append(path)
            if len(found) == BATCH:
                yield found
                found = []
    if found:
        yield found


def age(path: Path) -> float:
    """Seconds since its last change; 0 when it is gone."""
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


def _entries(path: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        for entry in entries:
            yield Path(entry.path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
