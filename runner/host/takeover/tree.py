"""Directories of a stranger, walked by descriptors: no link is followed, no device opened."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

DEEPEST = 64
CHUNK = 1 << 20
_MOST_NAMED = 5
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Copied:
    """``left`` are the first few entries that were not copied, ``left_count`` all of them."""

    files: int = 0
    size: int = 0
    left: list[str] = field(default_factory=list)
    left_count: int = 0

    def leave(self, name: str) -> None:
        self.left_count += 1
        if len(self.left) < _MOST_NAMED:
            self.left.append(name)


@contextlib.contextmanager
def opened(root: Path, *parts: str) -> Iterator[int | None]:
    """Descriptor of the directory ``parts`` below ``root``; ``None`` when it is none.

    ``root`` was named by a person and may be a link.
    """
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        for part in parts:
            try:
                inner = os.open(part, _DIR, dir_fd=fd)
            except OSError:
                yield None
                return
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def names(fd: int | None) -> list[str]:
    """All names in it, sorted."""
    if fd is None:
        return []
    with os.scandir(fd) as entries:
        return sorted(e.name for e in entries)


def directories(fd: int | None) -> list[str]:
    """Names of the directories in it, sorted; hidden ones and links are left out."""
    if fd is None:
        return []
    with os.scandir(fd) as entries:
        return sorted(
            e.name
            for e in entries
            if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)
        )


def read_file(fd: int | None, name: str, limit: int) -> bytes | None:
    """A regular file's content; ``None`` when it is missing, no such file, or over the limit."""
    if fd is None:
        return None
    try:
        file = os.open(name, _FILE, dir_fd=fd)
    except OSError:
        return None
    with os.fdopen(file, "rb") as opened_file:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        content = opened_file.read(limit + 1)
    return content if len(content) <= limit else None


def copy_file(fd: int | None, name: str, target: Path) -> None:
    """A regular file into a new one, which nobody else may read; nothing when it is none.

    Raises:
        OSError: the new one cannot be written.
    """
    if fd is None:
        return
    try:
        file = os.open(name, _FILE, dir_fd=fd)
    except OSError:
        return
    with os.fdopen(file, "rb") as reading:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return
        with os.fdopen(os.open(target, _NEW, 0o600), "wb") as writing:
            _pour(reading, writing)


def copy_tree(source: int, target: int | None, *, without: frozenset[str] = frozenset()) -> Copied:
    """Copy what is in one directory into another; ``None`` only counts.

    Args:
        without: names at the top that stay behind.

    Raises:
        OSError: it cannot be read or written, also when something has the same name there.
    """
    done = Copied()
    _copy(source, target, "", done, without, DEEPEST)
    return done


def _copy(
    source: int, target: int | None, at: str, done: Copied, without: frozenset[str], levels: int
) -> None:
    for name in names(source):
        path = f"{at}{name}"
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        if name in without:
            continue
        if stat.S_ISREG(found.st_mode):
            _copy_one(source, target, name, path, done)
        elif stat.S_ISDIR(found.st_mode) and levels:
            inner = os.open(name, _DIR, dir_fd=source)
            try:
                with _made(target, name) as made:
                    _copy(inner, made, f"{path}/", done, frozenset(), levels - 1)
            finally:
                os.close(inner)
        else:
            done.leave(path)


def _copy_one(source: int, target: int | None, name: str, path: str, done: Copied) -> None:
    file = os.open(name, _FILE, dir_fd=source)
    with os.fdopen(file, "rb") as reading:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):  # it was exchanged meanwhile
            done.leave(path)
            return
        done.files += 1
        done.size += found.st_size
        if target is None:
            return
        made = os.open(name, _NEW, 0o600, dir_fd=target)
        with os.fdopen(made, "wb") as writing:
            _pour(reading, writing)
            os.fchmod(made, (found.st_mode & 0o777) | 0o600)
        os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target)


def _pour(reading: BinaryIO, writing: BinaryIO) -> None:
    """Copy the bytes; holes stay holes, however long they are."""
    source, size, at = reading.fileno(), os.fstat(reading.fileno()).st_size, 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            break  # the rest is a hole
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(source, at, os.SEEK_SET)
        writing.seek(at)
        while at < end and (chunk := os.read(source, min(CHUNK, end - at))):
            writing.write(chunk)
            at += len(chunk)
    writing.truncate(size)


@contextlib.contextmanager
def _made(target: int | None, name: str) -> Iterator[int | None]:
    if target is None:
        yield None
        return
    os.mkdir(name, 0o700, dir_fd=target)
    fd = os.open(name, _DIR, dir_fd=target)
    try:
        yield fd
    finally:
        os.close(fd)
