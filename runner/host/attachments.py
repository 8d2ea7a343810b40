"""Files that came with messages: on disk before their message is, in the workspace before its turn.

They wait in ``data/attachments/<folder>/<message id>/``, which only the host sees. A message's row
names them; a directory that no row names is what a crash left, and :meth:`Attachments.sweep`
removes it. Names inside are safe names, never what a sender wrote.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from runner.errors import BusyError, NanokimiError, NotFoundError, PermanentError
from runner.host.filenames import media_type, safe_name
from runner.host.shelf import UNFINISHED, age, batches, explained, make_directory
from runner.model import Attachment, Message, folder_of
from runner.sandbox.beneath import write_all
from runner.sandbox.spawner import Spawner, Volume
from runner.sandbox.trees import measure, remove_tree
from runner.settings.layout import Layout
from runner.store import Store, files

log = structlog.get_logger()

MAX_ATTACHMENTS = 10
_HOST = ".host-"
IN_WORKSPACE = "attachments"
STAGED_KEPT = 50
"""What waits for a group takes at most this many times ``[tools.send_file] max_size``."""

_MAX_TYPE = 100
_BUFFER = 1 << 20
_SCAN = 30.0
_NAME = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Staged:
    """Files on disk that wait for the message that will name them."""

    message_id: str
    attachments: tuple[Attachment, ...] = ()


class Staging:
    """Takes the files of one message, one after the other: ``begin``, ``write`` …, ``end``.

    Args:
        fd: the directory of the message; ``limit`` and ``room`` in bytes, for a file and for all.
    """

    def __init__(self, message_id: str, fd: int, limit: int, room: int) -> None:
        self.message_id = message_id
        self._directory = fd
        self._limit = limit
        self._room = room
        self._done: list[Attachment] = []
        self._file = -1
        self._name = ""
        self._type = ""
        self._size = 0
        self._buffer = bytearray()

    async def begin(self, name: str, type_: str = "") -> None:
        """A new file. Raises: PermanentError: there are too many."""
        if len(self._done) == MAX_ATTACHMENTS:
            raise PermanentError(
                f"a message with more than {MAX_ATTACHMENTS} attachments",
                hint="send the others with another message, or packed into an archive",
                code="too_many_attachments",
            )
        self._name = safe_name(name, [a.name for a in self._done])
        self._type = type_ if _is_type(type_) else media_type(self._name)
        self._size = 0
        with explained("the attachment"):
            self._file = os.open(self._name, _CREATE, 0o600, dir_fd=self._directory)

    async def write(self, data: bytes | memoryview) -> None:
        """More of the file.

        Raises:
            PermanentError: it is too large; BusyError: the group has no room left.
        """
        self._size += len(data)
        if self._size > self._limit:
            raise PermanentError(
                f'the attachment "{self._name}" has more than {self._limit} bytes',
                hint="make it smaller; the operator's limit is [tools.send_file] max_size",
                code="attachment_too_large",
            )
        self._room -= len(data)
        if self._room < 0:
            raise BusyError(
                "the attachments that wait in this group take all the room there is",
                hint="wait for answers: attachments go when their messages are answered",
                code="attachments_full",
                retry_after=60.0,
            )
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            await self._flush()

    async def end(self) -> None:
        """The file is complete: it is on disk when this returns."""
        await self._flush()
        with explained("the attachment"):
            await asyncio.to_thread(os.fsync, self._file)
        self._close_file()
        path = f"{IN_WORKSPACE}/{self.message_id}/{self._name}"
        self._done.append(Attachment(self._name, self._type, self._size, path))

    async def staged(self) -> Staged:
        """All of them, on disk."""
        with explained("the attachments"):
            await asyncio.to_thread(os.fsync, self._directory)
        return Staged(self.message_id, tuple(self._done))

    def close(self) -> None:
        self._close_file()
        os.close(self._directory)

    async def _flush(self) -> None:
        data, self._buffer = bytes(self._buffer), bytearray()
        with explained("the attachment"):
            await asyncio.to_thread(write_all, self._file, data)

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Attachments:
    """What waits for every group's turns. ``host``: the id of the host that stores it here."""

    def __init__(self, layout: Layout, store: Store, spawner: Spawner, host: str) -> None:
        self._layout = layout
        self._store = store
        self._spawner = spawner
        self._host = host

    def sign(self) -> None:
        """Leave this host's name here: who finds it shares the directory with us. Blocking."""
        root = self._layout.root
        try:
            with make_directory(root, root / "attachments") as fd:
                os.close(os.open(f"{_HOST}{self._host}", _NAME, 0o600, dir_fd=fd))
        except (NanokimiError, OSError) as e:
            log.warning("attachments.not_signed", error=str(e))

    def shared_with(self, host: str) -> bool:
        """Does that host store in the same directory, as on a file system that both have?"""
        return (self._layout.root / "attachments" / f"{_HOST}{host}").exists()

    @asynccontextmanager
    async def staging(self, group: str, limit: int) -> AsyncIterator[Staging]:
        """Take a message's files, each of at most ``limit`` bytes. On an error they are removed.

        Raises:
            TemporaryError: the disk is full.
        """
        folder, message_id = folder_of(group), f"msg_{secrets.token_hex(12)}"
        place = self._layout.attachments(folder) / message_id

        def start() -> Staging:
            with make_directory(self._layout.root, place.parent) as shelf:
                taken = measure(shelf, max_entries=100_000, deadline=_SCAN)
            room = limit * STAGED_KEPT - taken.used
            with make_directory(self._layout.root, place) as fd:
                return Staging(message_id, os.dup(fd), limit, room)

        staging = await asyncio.to_thread(start)
        try:
            yield staging
        except BaseException:
            staging.close()
            await asyncio.to_thread(self.discard, group, message_id)
            raise
        staging.close()

    def discard(self, group: str, message_id: str) -> None:
        """Remove files whose message was refused or known already. What stays is the sweep's."""
        try:
            remove_tree(self._layout.attachments(folder_of(group)) / message_id)
        except OSError as e:
            log.warning("attachments.not_removed", message=message_id, error=str(e))

    async def bring(self, folder: str, messages: Sequence[Message]) -> frozenset[str]:
        """Put the messages' files into the group's workspace; those that are there stay.

        Returns the paths, there, of those that are gone.

        Raises:
            TemporaryError: the disk is full, or the workspace cannot be reached.
        """
        gone: list[str] = []
        for message in messages:
            if message.attachments:
                gone += await asyncio.to_thread(self._bring, folder, message)
        return frozenset(gone)

    def _bring(self, folder: str, message: Message) -> list[str]:
        gone: list[str] = []
        volume = self._spawner.volume(folder)
        place = self._layout.attachments(folder) / message.id
        for attachment in message.attachments:
            try:
                source = os.open(
                    place / attachment.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                )
            except FileNotFoundError:
                # It is too old, or another host has it; else the turn is tried again long after.
                if not _is_there(volume, attachment.path):
                    about = {"group": message.group, "message": message.id}
                    log.warning("attachment.gone", **about, name=attachment.name)
                    gone.append(attachment.path)
                continue
            try:
                volume.bring_in((IN_WORKSPACE, message.id), attachment.name, source)
            finally:
                os.close(source)
        return gone

    async def sweep(self, keep: float) -> int:
        """Remove the files of messages that have had their turn, that nobody knows, or that wait
        longer than ``keep`` seconds; says of how many."""
        gone = 0
        for batch in batches(self._layout.root / "attachments"):
            gone += await self._sweep(batch, keep)
        return gone

    async def _sweep(self, batch: list[Path], keep: float) -> int:
        ids = [path.name for path in batch]
        known = await self._store.read(lambda c: files.awaited(c, ids))
        over = [path for path in batch if _is_over(known.get(path.name), age(path), keep)]
        for path in over:
            await asyncio.to_thread(remove_tree, path)
        return len(over)


def _is_there(volume: Volume, path: str) -> bool:
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        volume.copy_out(path, nowhere, 0)
    except NotFoundError:
        return False
    except PermanentError:  # it is larger than nothing
        return True
    finally:
        os.close(nowhere)
    return True


def _is_over(awaited: bool | None, seconds: float, keep: float) -> bool:
    """``awaited`` is ``None`` for a message that nobody knows: it may still be on its way in."""
    if awaited is None:
        return seconds > UNFINISHED
    return not awaited or seconds > keep


def _is_type(value: str) -> bool:
    """Is it a media type that can be stored and shown as it is?"""
    kind, slash, rest = value.partition("/")
    plain = f"{kind}{rest}".replace("-", "").replace(".", "").replace("+", "")
    return bool(slash) and len(value) <= _MAX_TYPE and plain.isascii() and plain.isalnum()
