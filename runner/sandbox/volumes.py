"""A group's directories on the host: made with the right owner, filled by atomic writes.

Every path is walked from the data directory with directory descriptors and ``O_NOFOLLOW``: a link
planted anywhere on the way is an error, never followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.errors import PermanentError, TemporaryError
from runner.sandbox.trees import give_tree
from runner.settings.layout import Layout

SANDBOX_UID = 10001
CONFIG_FILE = "config.toml"

_SAFE_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o700
_READABLE_DIR = 0o755
_READABLE_FILE = 0o444
# Sockets in it can be reached by name, and it cannot be listed.
_PASSABLE = 0o711


@dataclass(frozen=True, slots=True)
class Owner:
    """Who an agent runs as, in numbers of the host."""

    uid: int
    gid: int


def sandbox_owner() -> Owner:
    """``10001:10001`` when we are root and can give files away, else ourselves."""
    if os.geteuid() == 0:
        return Owner(SANDBOX_UID, SANDBOX_UID)
    return Owner(os.geteuid(), os.getegid())


def prepare(layout: Layout, folder: str, owner: Owner) -> None:
    """Make all directories of the group. Blocking; safe to repeat; changes no content.

    Raises:
        TemporaryError: the disk is full.
        PermanentError: a directory is in other hands, or a path leads through a link.
    """
    with _explained(layout.root, folder):
        with directory(layout.root, layout.agent_log(folder).parent, _PRIVATE):
            pass
        for path in (layout.workspace(folder), layout.sessions(folder)):
            with directory(layout.root, path, _PRIVATE) as fd:
                _give(fd, path, owner)
        with directory(layout.root, layout.group_run(folder), _PRIVATE):
            pass
        for path, mode in (
            (layout.socket_dir(folder), _PASSABLE),
            (layout.config_projection(folder), _READABLE_DIR),
            (layout.credentials_projection(folder), _READABLE_DIR),
        ):
            with directory(layout.root, path, mode) as fd:
                os.fchmod(fd, mode)  # the umask has no say here


def project_config(layout: Layout, folder: str, config: str) -> None:
    """Write the group's ``config.toml`` by atomic rename. Blocking.

    Raises:
        TemporaryError, PermanentError: as in :func:`prepare`.
    """
    _project(layout, layout.config_projection(folder), {CONFIG_FILE: config})


def project_credentials(layout: Layout, folder: str, credentials: Mapping[str, str]) -> None:
    """Make the group's credential files exactly these, each by atomic rename. Blocking.

    Raises:
        ValueError: a file name is not a plain name (a bug, never user input).
        TemporaryError, PermanentError: as in :func:`prepare`.
    """
    _project(layout, layout.credentials_projection(folder), credentials)


def _project(layout: Layout, path: Path, files: Mapping[str, str]) -> None:
    with (
        _explained(layout.root, path.parent.name),
        directory(layout.root, path, _READABLE_DIR) as fd,
    ):
        _replace_all(fd, files)


def write_atomic(dir_fd: int, name: str, data: bytes, mode: int) -> None:
    """Replace ``name`` in the directory: temp file, fsync, rename, fsync of the directory."""
    temporary = f".tmp-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, mode, dir_fd=dir_fd)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)  # the umask has no say here
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=dir_fd)
        raise
    os.fsync(dir_fd)


def _replace_all(dir_fd: int, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        if not _SAFE_FILE.fullmatch(name):
            raise ValueError(f"not a plain file name: {name!r}")
        data = text.encode()
        if _content(dir_fd, name) != data:
            write_atomic(dir_fd, name, data, _READABLE_FILE)
    for name in set(os.listdir(dir_fd)) - set(files):
        os.unlink(name, dir_fd=dir_fd)


def _content(dir_fd: int, name: str) -> bytes | None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read()


@contextlib.contextmanager
def directory(root: Path, path: Path, mode: int) -> Iterator[int]:
    """Descriptor of ``path`` below ``root``; makes what is missing, the last part with ``mode``."""
    parts = path.relative_to(root).parts
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for i, part in enumerate(parts):
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, mode if i == len(parts) - 1 else _PRIVATE, dir_fd=fd)
            inner = os.open(part, _DIR, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def _give(fd: int, path: Path, owner: Owner) -> None:
    """Make ``owner`` the owner of an opened tree; walks it only when its top changes hands."""
    status = os.fstat(fd)
    if (status.st_uid, status.st_gid) == (owner.uid, owner.gid):
        return
    if os.geteuid() != 0:
        if status.st_uid == owner.uid:
            return
        raise PermanentError(
            f"{path} belongs to uid {status.st_uid}, and the sandbox runs as {owner.uid}",
            hint=f"sudo chown -R {owner.uid}:{owner.gid} {path}",
            code="wrong_owner",
        )
    give_tree(fd, owner.uid, owner.gid)


@contextlib.contextmanager
def _explained(root: Path, folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        where = f"{e.filename or folder} below {root}"
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TemporaryError(
                f"the disk is full: {where}", hint="free some space", code="disk_full"
            ) from None
        if e.errno in (errno.ELOOP, errno.ENOTDIR):
            raise PermanentError(
                f"{where} is a link or a file where a directory has to be",
                hint="move it out of the data directory",
                code="unsafe_path",
            ) from None
        raise PermanentError(
            f"{where}: {e.strerror}",
            hint="check the owner and the mode of the data directory",
            code="data_directory",
        ) from None
