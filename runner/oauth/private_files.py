"""Reading and writing small secret files: never through a link, never half, never for others."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

from runner.errors import PermanentError

MAX_SIZE = 64 * 1024

log = structlog.get_logger(__name__)


def read_private(path: Path) -> bytes | None:
    """The content of a file of at most 64 KiB; ``None`` when there is none.

    A file that others may read is set to 0600, with a warning.

    Raises:
        PermanentError: a symbolic link, not a regular file, too large, or not readable.
    """
    # Without O_NONBLOCK a FIFO in the file's place would hold us for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as e:
        what = "is a symbolic link" if e.errno == errno.ELOOP else f"cannot be read: {e.strerror}"
        raise PermanentError(
            f"{path} {what}", hint="put a regular file there that only you can read"
        ) from None
    try:
        found = os.fstat(descriptor)
        _need_regular(found, path, hint="move it away")
        _keep_private(descriptor, found, path)
        return _read(descriptor, path, hint="move it away")
    finally:
        os.close(descriptor)


def read_given(path: Path) -> bytes:
    """The content of a file of at most 64 KiB that a person has named; it is left as it is.

    Raises:
        PermanentError: not there, not a regular file, too large, or not readable.
    """
    hint = "name the token file that `kimi login` has made"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise PermanentError(f"{path} cannot be read: {e.strerror}", hint=hint) from None
    try:
        _need_regular(os.fstat(descriptor), path, hint=hint)
        return _read(descriptor, path, hint=hint)
    finally:
        os.close(descriptor)


def _need_regular(found: os.stat_result, path: Path, *, hint: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise PermanentError(f"{path} is not a regular file", hint=hint)


def _read(descriptor: int, path: Path, *, hint: str) -> bytes:
    content = os.read(descriptor, MAX_SIZE + 1)  # one read is whole: a local regular file
    if len(content) > MAX_SIZE:
        raise PermanentError(f"{path} is larger than {MAX_SIZE} bytes", hint=hint)
    return content


def _keep_private(descriptor: int, found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.geteuid():
        log.warning("credentials.foreign_owner", path=str(path), owner=found.st_uid)
    if stat.S_IMODE(found.st_mode) & 0o077:
        log.warning("credentials.too_open", path=str(path), mode=oct(found.st_mode & 0o777))
        with contextlib.suppress(PermissionError):  # the owner was named in the warning above
            os.fchmod(descriptor, 0o600)


def write_private(path: Path, content: bytes, *, mark: str = "") -> None:
    """Replace a file so that it is there whole or not at all, also after a power cut.

    Args:
        mark: letters and digits by which :func:`leftovers` tells what a writer that was killed
            before it could put the new file in place has left.

    Raises:
        PermanentError: it cannot be written; the old file is untouched.
    """
    with _writing(path):
        _make_dir(path.parent)
        temporary = _write_temporary(path, content, mark)
        try:
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_dir(path.parent)


def leftovers(path: Path) -> list[tuple[str, Path]]:
    """What killed writers of ``path`` have left beside it: their marks and files.

    To be asked by the only writer there is.
    """
    found = sorted(path.parent.glob(f".{path.name}.*"))
    return [(left.name.split(".")[-2], left) for left in found]


def put_in_place(left: Path, path: Path) -> None:
    """Finish what the killed writer of ``left`` had begun.

    Raises:
        PermanentError: it cannot be done.
    """
    with _writing(path):
        descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        left.replace(path)
        _sync_dir(path.parent)


def create_private(path: Path, content: bytes) -> None:
    """Write a file unless it is there already: of two that try at once, the first one wins.

    Raises:
        PermanentError: it cannot be written.
    """
    with _writing(path):
        _make_dir(path.parent)
        temporary = _write_temporary(path, content)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_dir(path.parent)


def check_writable(path: Path) -> None:
    """Try that :func:`write_private` could replace ``path`` by as much as 64 KiB now.

    Raises:
        PermanentError: it could not.
    """
    with _writing(path):
        _make_dir(path.parent)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _write_temporary(path, b"\0" * MAX_SIZE).unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file if it is there.

    Raises:
        PermanentError: it cannot be removed.
    """
    with _writing(path):
        path.unlink(missing_ok=True)


def prepare_dir(directory: Path) -> None:
    """A directory that only its owner may enter (0700), made or corrected.

    Raises:
        PermanentError: it cannot be made.
    """
    with _writing(directory):
        _make_dir(directory)


def _make_dir(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o077:
        log.warning("credentials.dir_too_open", path=str(directory), mode=oct(mode))
        directory.chmod(0o700)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise PermanentError(
            f"{path} cannot be written: {e.strerror or e}",
            hint=f"make {path.parent} writable and give its disk some room",
            code="credentials_not_writable",
        ) from None


def _write_temporary(path: Path, content: bytes, mark: str = "") -> Path:
    temporary = path.parent / f".{path.name}.{mark}.{secrets.token_hex(6)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  a descriptor, not a path
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_dir(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
