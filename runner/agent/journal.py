"""A session on disk: one JSON line per entry, on disk before anybody acts on it.

``sessions/<id>/journal.jsonl`` is only ever appended to. Messages stand in it byte for byte as they
are sent to the model. A last line without its newline was never acknowledged and is cut off.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from runner.errors import BusyError, PermanentError, TemporaryError
from runner.model import Usage
from runner.wire.acp import StopReason

VERSION = 1
MAX_ENTRY = 32 * 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Entry(msgspec.Struct, tag_field="entry", omit_defaults=True, kw_only=True):
    pass


class Header(_Entry, tag="session"):
    version: int = msgspec.field(default_factory=lambda: VERSION)


class UserSaid(_Entry, tag="user"):
    """``again``: the loop said it once more by itself (``max_ralph_iterations``)."""

    turn: str
    message: msgspec.Raw
    again: bool = False


class Steer(_Entry, tag="steer"):
    """Text for the running turn; it waits until the next request (:class:`Steered`).

    ``id`` is the client's name for it, if it has one: then it is of that turn only.
    """

    turn: str
    message: msgspec.Raw
    id: str = ""


class Steered(_Entry, tag="steered"):
    """The oldest ``count`` waiting steers joined the conversation."""

    turn: str
    count: int


class ModelSaid(_Entry, tag="assistant"):
    """``message`` is ``null`` when the answer was empty."""

    turn: str
    step: int
    finish: str
    message: msgspec.Raw
    usage: Usage | None = None


class ToolSaid(_Entry, tag="tool"):
    turn: str
    call: str
    message: msgspec.Raw
    failed: bool = False


class TurnEnded(_Entry, tag="end"):
    turn: str
    stop: StopReason


class TurnDropped(_Entry, tag="drop"):
    """The turn's messages left the context: the model refuses them."""

    turn: str


class Compacted(_Entry, tag="compaction"):
    """``message`` stands for everything before the running turn's user messages."""

    turn: str
    message: msgspec.Raw
    usage: Usage | None = None


Entry = (
    Header | UserSaid | Steer | Steered | ModelSaid | ToolSaid | TurnEnded | TurnDropped | Compacted
)
_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


class Journal:
    """One open journal; the file is locked, so that no second agent appends to it.

    Raises (from all methods):
        TemporaryError: ``disk_full`` or ``journal_failed``; the file is as it was before the call.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._end = os.fstat(fd).st_size

    @classmethod
    def create(cls, path: Path) -> Journal:
        """A new journal with its directory, on disk when this returns."""
        try:
            path.parent.mkdir(parents=True, mode=0o700)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except OSError as e:
            raise _failure(e, path) from e
        journal = cls(path, _lock(fd))
        journal.append(Header())
        for directory in (path.parent, path.parent.parent):
            _sync_directory(directory)
        return journal

    @classmethod
    def open(cls, path: Path) -> Journal:
        """An existing journal, its torn end cut off.

        Raises:
            FileNotFoundError: there is none.
            BusyError: another agent has it open.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise
        except OSError as e:
            raise _failure(e, path) from e
        journal = cls(path, _lock(fd))
        journal._cut_torn_end()
        return journal

    def append(self, *entries: Entry) -> None:
        """Write the entries and wait until the disk has them."""
        data = b"".join(_encode(entry) + b"\n" for entry in entries)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            os.fsync(self._fd)
        except OSError as e:
            os.ftruncate(self._fd, self._end)
            raise _failure(e, self._path) from e
        self._end += len(data)

    def entries(self) -> Iterator[Entry]:
        """All entries from the start; memory is bounded by the longest.

        Raises:
            PermanentError: ``journal_corrupt``: a line in the middle is not an entry.
        """
        with open(os.dup(self._fd), "rb") as file:  # noqa: PTH123
            file.seek(0)
            number = 0
            while line := file.readline(MAX_ENTRY):
                number += 1
                try:
                    yield _decoder.decode(line)
                except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
                    raise PermanentError(
                        f"line {number} of {self._path} cannot be read: {e}",
                        hint="reset the group, or repair that line by hand",
                        code="journal_corrupt",
                    ) from None

    def close(self) -> None:
        os.close(self._fd)

    def _cut_torn_end(self) -> None:
        position = self._end
        while position > 0:
            start = max(0, position - 65536)
            newline = os.pread(self._fd, position - start, start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position != self._end:
            os.ftruncate(self._fd, position)
            os.fsync(self._fd)
            self._end = position


def _lock(fd: int) -> int:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise BusyError(
            "the session is open in another agent", hint="end that agent first", code="session_busy"
        ) from None
    return fd


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failure(e: OSError, path: Path) -> TemporaryError:
    if e.errno in _FULL:
        return TemporaryError(
            f"no space left for the session at {path}",
            hint="free space where the sessions are kept, then send the message again",
            code="disk_full",
        )
    return TemporaryError(
        f"the session at {path} cannot be written: {e.strerror}",
        hint="make the sessions directory writable for the agent's user",
        code="journal_failed",
    )
