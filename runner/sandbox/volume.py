"""A group's files where they are directories of this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.errors import NanokimiError, TemporaryError
from runner.sandbox import beneath
from runner.sandbox.trees import Usage, measure, remove_tree
from runner.sandbox.volumes import Owner, directory
from runner.settings.layout import Layout

_PRIVATE_DIR = 0o700
_NO_LIMIT = 1 << 62


class LocalVolume:
    """See :class:`~runner.sandbox.spawner.Volume`. ``owner`` is who the agent runs as."""

    def __init__(self, layout: Layout, folder: str, owner: Owner) -> None:
        self._layout = layout
        self._folder = folder
        self._owner = owner

    def copy_out(self, path: str, target: int, limit: int) -> int:
        with self._explained(), self._opened(self._layout.workspace(self._folder)) as root:
            source, _ = beneath.open_regular(root, path, limit)
            try:
                return beneath.copy(source, target, limit, path[:200])
            finally:
                os.close(source)

    def bring_in(self, directory: Sequence[str], name: str, source: int) -> None:
        def fill(fd: int) -> None:
            self._give(fd)
            beneath.copy(source, fd, _NO_LIMIT, name)

        with (
            self._explained(),
            self._opened(self._layout.workspace(self._folder)) as root,
            beneath.directory_beneath(root, directory, _PRIVATE_DIR, self._give) as inner,
        ):
            if not _is_file(inner, name):
                beneath.create(inner, name, fill)

    def measure(self, max_entries: int, deadline: float) -> Usage:
        total = Usage()
        with self._explained():
            for path in (
                self._layout.workspace(self._folder),
                self._layout.sessions(self._folder),
            ):
                with self._opened(path) as root:
                    found = measure(root, max_entries=max_entries, deadline=deadline / 2)
                total = Usage(
                    total.used + found.used,
                    total.entries + found.entries,
                    total.missing or found.missing,
                )
        return total

    def remove(self) -> None:
        remove_volume(self._layout, self._folder)

    def _opened(self, path: Path) -> contextlib.AbstractContextManager[int]:
        return directory(self._layout.root, path, _PRIVATE_DIR)

    def _give(self, fd: int) -> None:
        status = os.fstat(fd)
        if (status.st_uid, status.st_gid) != (self._owner.uid, self._owner.gid):
            os.fchown(fd, self._owner.uid, self._owner.gid)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except NanokimiError:
            raise
        except OSError as e:
            full = e.errno in (errno.ENOSPC, errno.EDQUOT)
            raise TemporaryError(
                f"the files of {self._folder}: {e.strerror}",
                hint="free some space" if full else "look at their owner and mode",
                code="disk_full" if full else "files_unreachable",
            ) from None


def remove_volume(layout: Layout, folder: str) -> None:
    """Remove a group's workspace, sessions and run directory; its sandbox has to be gone. Blocking.

    Raises:
        TemporaryError: some of it cannot be removed.
    """
    try:
        for path in (layout.workspace(folder), layout.sessions(folder), layout.group_run(folder)):
            remove_tree(path)
    except OSError as e:
        raise TemporaryError(
            f"the group's files cannot be removed: {e}",
            hint="mend their owner or mode, and try again",
            code="files_not_removed",
        ) from None


def _is_file(directory: int, name: str) -> bool:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode)
