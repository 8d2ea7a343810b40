"""Files below one folder, whatever a path says and whatever links lie around.

A path is walked one name at a time, each opened relative to the folder that is already held and
without following links; a link's target is walked the same way. So nothing that is swapped in
between can lead out: what ``openat2(RESOLVE_BENEATH)`` does, without needing the call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

MAX_LINKS = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class OutsideError(OSError):
    """The path leads out of the workspace."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EXDEV, f"{path} is outside the workspace")


class Workspace:
    """``root``: an absolute path. Paths given to the methods are relative to it or below it.

    Raises (from all methods):
        OutsideError, OSError: with a text for people.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._real = os.path.realpath(root)

    @contextmanager
    def folder(self, path: str) -> Iterator[int]:
        """A folder's descriptor."""
        with self._parent(path) as (parent, name):
            fd = os.open(name or ".", _DIRECTORY, dir_fd=parent)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def file(self, path: str) -> Iterator[int]:
        """A regular file's descriptor, for reading."""
        with self._parent(path) as (parent, name):
            fd = os.open(
                name or ".",
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                dir_fd=parent,
            )
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, f"{path} is a folder")
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, f"{path} is not a regular file")
            yield fd
        finally:
            os.close(fd)

    def replace(self, path: str, data: bytes, *, make_parents: bool = False) -> bool:
        """Write a whole file at once: temp file, fsync, rename. True when it is a new one.

        An existing file keeps its mode.
        """
        with self._parent(path, make=make_parents) as (parent, name):
            if not name:
                raise IsADirectoryError(errno.EISDIR, f"{path} is a folder")
            try:
                old = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                old = None
            if old is not None and not stat.S_ISREG(old.st_mode):
                raise OSError(errno.EINVAL, f"{path} is not a regular file")
            temp = f".{name[:200]}.{os.urandom(4).hex()}.tmp"
            mode = stat.S_IMODE(old.st_mode) if old is not None else 0o644
            fd = os.open(
                temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=parent
            )
            try:
                with open(fd, "wb") as file:  # noqa: PTH123
                    file.write(data)
                    file.flush()
                    os.fchmod(fd, mode)
                    os.fsync(fd)
                os.rename(temp, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temp, dir_fd=parent)
                raise
            return old is None

    @contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder that really holds ``path`` and the name in it, links resolved.

        The name is empty when ``path`` is the workspace itself.
        """
        if "\0" in path:
            raise OSError(errno.EINVAL, "a path cannot hold a NUL")
        todo = self._parts(path, path)
        stack = [os.open(self._real, _DIRECTORY)]
        links = 0
        name = ""
        try:
            while todo:
                part = todo.pop()
                if part == "..":
                    if len(stack) == 1:
                        raise OutsideError(path)
                    os.close(stack.pop())
                    continue
                target = _link(stack[-1], part)
                if target is not None:
                    links += 1
                    if links > MAX_LINKS:
                        raise OSError(errno.ELOOP, f"too many links on the way to {path}")
                    if target.startswith("/"):
                        while len(stack) > 1:
                            os.close(stack.pop())
                    todo += self._parts(target, path)
                    continue
                if not todo:
                    name = part
                    break
                stack.append(_enter(stack[-1], part, make=make))
            yield stack[-1], name
        finally:
            for fd in stack:
                os.close(fd)

    def _parts(self, path: str, asked: str) -> list[str]:
        """The names of a path, last one first."""
        pure = PurePosixPath(path)
        if pure.is_absolute():
            root = next((r for r in (self.root, self._real) if pure.is_relative_to(r)), None)
            if root is None:
                raise OutsideError(asked)
            pure = pure.relative_to(root)
        return [part for part in reversed(pure.parts) if part != "."]


def _link(parent: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError:  # not a link, or not there: the open that follows says which
        return None


def _enter(parent: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
        return os.open(name, _DIRECTORY, dir_fd=parent)
