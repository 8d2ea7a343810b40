"""Files below a directory that a stranger controls, opened so that no path leads out of it.

A path is resolved once, by the kernel, without following any link (``openat2``, Linux 5.6; on older
kernels component by component with ``O_NOFOLLOW``). What comes back is a descriptor, and everything
after that is asked of the descriptor: a name that is swapped in between changes nothing.

Hard links are no way out: a sandbox can make them inside one of its own mounts only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence

from runner.errors import NotFoundError, PermanentError, TemporaryError

MAX_PATH = 4096
MAX_NAME = 255
CHUNK = 256 * 1024

_SYS_OPENAT2 = 437  # the same number on every architecture that has it
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a FIFO would hold the caller until somebody writes into it.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    """``struct open_how`` of linux/openat2.h."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def parts_of(path: str) -> tuple[str, ...]:
    """The components of a relative path as a stranger wrote it. Pure.

    Raises:
        PermanentError: it is absolute, empty, too long, climbs, or cannot be a path (``bad_path``).
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise _bad(path, "it holds a character that no path has") from None
    if "\0" in path:
        raise _bad(path, "it holds a NUL")
    if len(encoded) > MAX_PATH:
        raise _bad(path, f"it is longer than {MAX_PATH} bytes")
    if path.startswith("/"):
        raise _bad(path, "it is absolute")
    parts = tuple(p for p in path.split("/") if p not in ("", "."))
    if not parts:
        raise _bad(path, "it names no file")
    if ".." in parts:
        raise _bad(path, 'it climbs with ".."')
    if any(len(os.fsencode(p)) > MAX_NAME for p in parts):
        raise _bad(path, f"a name in it is longer than {MAX_NAME} bytes")
    return parts


def open_beneath(root: int, parts: Sequence[str], flags: int, mode: int = 0) -> int:
    """Open what ``parts`` lead to below the directory ``root``; a new descriptor.

    Raises:
        OSError: as ``open``; ``ELOOP`` or ``ENOTDIR`` when a link is on the way or at its end.
    """
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    if _kernel_resolves():
        return _openat2(root, "/".join(parts), flags, mode)
    return open_by_component(root, parts, flags, mode)


def open_by_component(root: int, parts: Sequence[str], flags: int, mode: int = 0) -> int:
    """What :func:`open_beneath` does where the kernel has no ``openat2``."""
    here = root
    try:
        for part in parts[:-1]:
            inner = os.open(part, _DIRECTORY, dir_fd=here)
            if here != root:
                os.close(here)
            here = inner
        return os.open(parts[-1], flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode, dir_fd=here)
    finally:
        if here != root:
            os.close(here)


def open_regular(root: int, path: str, limit: int) -> tuple[int, int]:
    """A regular file of at most ``limit`` bytes for reading: its descriptor and its size.

    Raises:
        NotFoundError: there is none.
        PermanentError: it is something else, too large, behind a link, or may not be read.
        TemporaryError: a lease of somebody is on it.
    """
    parts = parts_of(path)
    shown = path[:200]
    try:
        fd = open_beneath(root, parts, _READ)
    except OSError as e:
        raise _explained(e, shown) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise PermanentError(
                f'"{shown}" is not a regular file',
                hint="name a file; pack a directory into an archive first",
                code="not_a_file",
            )
        if status.st_size > limit:
            raise too_large(shown, status.st_size, limit)
    except BaseException:
        os.close(fd)
        raise
    return fd, status.st_size


def copy(source: int, target: int, limit: int, name: str) -> int:
    """Copy between two descriptors; the number of bytes. The source may grow meanwhile.

    Raises:
        PermanentError: there is more than ``limit``; ``name`` says of what.
    """
    done = 0
    while chunk := os.read(source, min(CHUNK, limit + 1 - done)):
        done += len(chunk)
        if done > limit:
            raise too_large(name, None, limit)
        write_all(target, chunk)
    return done


def write_all(fd: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


@contextlib.contextmanager
def directory_beneath(
    root: int, parts: Sequence[str], mode: int, made: Callable[[int], None]
) -> Iterator[int]:
    """A descriptor of a directory below ``root``; what is missing is made, and told to ``made``.

    What stands in the way (a link, a file) is moved aside, never followed and never lost.

    Raises:
        OSError: it cannot be made.
    """
    here = os.dup(root)
    try:
        for part in parts:
            inner = _enter(here, part, mode, made)
            os.close(here)
            here = inner
        yield here
    finally:
        os.close(here)


def create(directory: int, name: str, fill: Callable[[int], None]) -> None:
    """A new file ``name`` with what ``fill`` writes: all of it, on disk, or none.

    Whatever had the name is replaced, a link itself and not what it leads to.

    Raises:
        OSError: it cannot be written.
    """
    temporary = f".tmp-{secrets.token_hex(8)}"
    fd = os.open(temporary, _CREATE, 0o600, dir_fd=directory)
    try:
        try:
            fill(fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except IsADirectoryError:
            _move_aside(directory, name)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


def too_large(name: str, size: int | None, limit: int) -> PermanentError:
    """The error for a file of more than ``limit`` bytes; ``size`` when it is known."""
    has = f"has {size} bytes" if size is not None else "grew while it was read"
    return PermanentError(
        f'"{name}" {has}, {limit} are allowed',
        hint="make it smaller or send it in parts; the operator's limit is "
        "[tools.send_file] max_size",
        code="file_too_large",
    )


def _enter(here: int, part: str, mode: int, made: Callable[[int], None]) -> int:
    for _ in range(3):
        try:
            os.mkdir(part, mode, dir_fd=here)
            new = True
        except FileExistsError:
            new = False
        try:
            inner = os.open(part, _DIRECTORY, dir_fd=here)
        except OSError as e:
            if e.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
                raise
            _move_aside(here, part)
            continue
        if new:
            made(inner)
        return inner
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), part)


def _move_aside(directory: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        aside = f"aside-{secrets.token_hex(8)}"
        os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)


def _openat2(root: int, path: str, flags: int, mode: int) -> int:
    how = _OpenHow(flags, mode if flags & os.O_CREAT else 0, _RESOLVE)
    while True:
        fd = _syscall()(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(root),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number), path)


@functools.cache
def _syscall() -> Callable[..., int]:
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    return syscall


@functools.cache
def _kernel_resolves() -> bool:
    """Does this kernel (and the container that we may run in) let us call ``openat2``?"""
    root = os.open("/", _DIRECTORY)
    try:
        os.close(_openat2(root, ".", _DIRECTORY, 0))
    except OSError as e:
        if e.errno in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
            return False
        raise
    finally:
        os.close(root)
    return True


def _explained(e: OSError, shown: str) -> Exception:
    match e.errno:
        case errno.ENOENT:
            return NotFoundError(
                f'there is no file "{shown}" in the workspace',
                hint="give its path relative to the workspace",
            )
        case errno.ELOOP | errno.ENOTDIR | errno.EXDEV:
            return PermanentError(
                f'"{shown}" leads through a link or a file',
                hint="copy the file itself into the workspace",
                code="unsafe_path",
            )
        case errno.EAGAIN:
            return TemporaryError(
                f'"{shown}" is in use', hint="close it and try again", code="file_in_use"
            )
        case errno.ENXIO | errno.ENODEV:
            return PermanentError(
                f'"{shown}" is not a regular file', hint="name a file", code="not_a_file"
            )
        case _:
            return PermanentError(
                f'"{shown}" cannot be read: {e.strerror}',
                hint="look at its name, owner and mode",
                code="file_unreadable",
            )


def _bad(path: str, why: str) -> PermanentError:
    shown = path[:200].encode("utf-8", "replace").decode().replace("\0", "?")
    return PermanentError(
        f'"{shown}" is not a path in the workspace: {why}',
        hint='give a path relative to the workspace, such as "report.pdf"',
        code="bad_path",
    )
