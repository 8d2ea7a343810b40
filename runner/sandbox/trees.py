"""Whole trees that a stranger made: removed and measured, whatever their shape.

A tree may be a million directories deep or wide, and may lock its own directories. So nothing here
recurses, keeps a descriptor for each level, or holds a directory's list.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

REMOVAL_DEADLINE = 600.0

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512  # what st_blocks counts in, on every file system
MAX_DEPTH = 100


class Missing(StrEnum):
    """Why a tree was not counted to its end."""

    ENTRIES = "it holds too many files"
    DEPTH = "its directories are nested too deep"
    LOCKED = "a directory in it cannot be read"
    TIME = "counting took too long"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree takes on its disk, in bytes; ``missing`` says why not all of it was counted."""

    used: int = 0
    entries: int = 0
    missing: Missing | None = None


def remove_tree(path: Path, *, deadline: float = REMOVAL_DEADLINE) -> None:
    """Remove ``path`` and all below it; of a link, only itself. Nothing happens when it is missing.

    Its parent must not be writable by a stranger. Blocking, for at most ``deadline`` seconds.

    Raises:
        OSError: some of it cannot be removed; ``TimeoutError`` when there is too much.
    """
    end = time.monotonic() + deadline
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        with _opened(path.name, parent) as top:
            if top is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path.name, dir_fd=parent)
                return
            while _empty_children(top, end):
                pass
        os.rmdir(path.name, dir_fd=parent)
    finally:
        os.close(parent)


def measure(root: int, *, max_entries: int, deadline: float) -> Usage:
    """What lies below the directory ``root``, in blocks: sparse files count what they take.

    Looks at ``max_entries`` at most, :data:`MAX_DEPTH` levels deep and for ``deadline`` seconds;
    follows no link. Blocking.
    """
    end = time.monotonic() + deadline
    used = entries = 0
    levels = [_Level(os.dup(root))]
    try:
        while levels:
            entry = next(levels[-1].entries, None)
            if entry is None:
                levels.pop().close()
                continue
            entries += 1
            if entries > max_entries:
                return Usage(used, entries, Missing.ENTRIES)
            if time.monotonic() > end:
                return Usage(used, entries, Missing.TIME)
            try:
                status = entry.stat(follow_symlinks=False)
                used += status.st_blocks * _BLOCK
                if not stat.S_ISDIR(status.st_mode):
                    continue
                if len(levels) > MAX_DEPTH:
                    return Usage(used, entries, Missing.DEPTH)
                levels.append(_Level(os.open(entry.name, _DIRECTORY, dir_fd=levels[-1].fd)))
            except (FileNotFoundError, NotADirectoryError):
                continue  # it is changing while we look
            except OSError:
                return Usage(used, entries, Missing.LOCKED)
    finally:
        for level in levels:
            level.close()
    return Usage(used, entries)


def give_tree(root: int, uid: int, gid: int) -> None:
    """Make everything below the directory ``root`` somebody's, and ``root`` last. Blocking.

    Links are given themselves, not what they lead to. Last, so that a walk which was cut off is
    seen by its root and done again.

    Raises:
        OSError: something cannot be given; ``ENAMETOOLONG`` below :data:`MAX_DEPTH` levels.
    """
    levels = [_Level(os.dup(root))]
    try:
        while levels:
            here = levels[-1]
            entry = next(here.entries, None)
            if entry is None:
                levels.pop().close()
                continue
            os.chown(entry.name, uid, gid, dir_fd=here.fd, follow_symlinks=False)
            if not entry.is_dir(follow_symlinks=False):
                continue
            if len(levels) > MAX_DEPTH:
                raise OSError(errno.ENAMETOOLONG, f"more than {MAX_DEPTH} levels of directories")
            levels.append(_Level(os.open(entry.name, _DIRECTORY, dir_fd=here.fd)))
    finally:
        for level in levels:
            level.close()
    os.fchown(root, uid, gid)


class _Level:
    """An open directory and how far its entries are read."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.entries = os.scandir(fd)

    def close(self) -> None:
        self.entries.close()
        os.close(self.fd)


def _empty_children(top: int, end: float) -> bool:
    """Take away what lies directly in ``top``; what lies deeper moves up into it. Was there any?"""
    found = False
    with os.scandir(top) as entries:
        for entry in entries:
            found = True
            with _opened(entry.name, top) as inner:
                if inner is None:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.name, dir_fd=top)
                    continue
                while _move_up(inner, top, end):
                    pass
            os.rmdir(entry.name, dir_fd=top)
    return found


def _move_up(inner: int, top: int, end: float) -> bool:
    """Unlink the files of ``inner``, and put its directories directly below ``top``."""
    found = False
    with os.scandir(inner) as entries:
        for entry in entries:
            found = True
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, "there are too many files")
            with _opened(entry.name, inner) as directory:
                if directory is None:
                    os.unlink(entry.name, dir_fd=inner)
                else:
                    name = f".rm-{secrets.token_hex(8)}"
                    os.rename(entry.name, name, src_dir_fd=inner, dst_dir_fd=top)
    return found


@contextlib.contextmanager
def _opened(name: str, parent: int) -> Iterator[int | None]:
    """A directory that we may change; ``None`` when ``name`` is none."""
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        yield None
        return
    try:
        status = os.fstat(handle)
        if not stat.S_ISDIR(status.st_mode):
            yield None
            return
        if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            # Its owner locked it. There is no other way to change what a handle leads to.
            with contextlib.suppress(PermissionError):
                Path(f"/proc/self/fd/{handle}").chmod(stat.S_IRWXU)
        fd = os.open(".", _DIRECTORY, dir_fd=handle)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        os.close(handle)
