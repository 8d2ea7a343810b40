"""The protocol's two descriptors as a :class:`runner.wire.peer.Channel`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from runner.errors import SandboxGoneError

READ_SIZE = 65536
WRITE_DEADLINE = 60.0


class StdioChannel:
    """Pipes, sockets, terminals or files: whatever the agent was started on.

    A write that was accepted goes out whole even when its caller is cancelled: half a line would
    break the protocol.

    Args:
        read_fd, write_fd: from :func:`runner.agent.process.claim_protocol`.
        deadline: seconds a client may leave its end unread.
    """

    def __init__(self, read_fd: int, write_fd: int, *, deadline: float = WRITE_DEADLINE) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._deadline = deadline
        self._out = bytearray()
        self._drained: asyncio.Future[None] | None = None
        self._broken = False
        self._after_write: Callable[[], None] | None = None
        os.set_blocking(write_fd, False)

    def after_next_write(self, act: Callable[[], None]) -> None:
        """Call ``act`` once, when the next :meth:`write` is out."""
        self._after_write = act

    async def read(self) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            ready: asyncio.Future[None] = loop.create_future()
            try:
                loop.add_reader(self._read_fd, _wake, ready)
            except PermissionError:  # a regular file: cannot be polled and never blocks
                return os.read(self._read_fd, READ_SIZE)
            try:
                await ready
            finally:
                loop.remove_reader(self._read_fd)
            try:
                return os.read(self._read_fd, READ_SIZE)
            except BlockingIOError:
                continue
            except OSError:  # a reset or a hang-up ends the stream like EOF does
                return b""

    async def write(self, data: bytes) -> None:
        if self._broken:
            raise SandboxGoneError("the client is gone")
        self._out += data
        self._flush()
        try:
            async with asyncio.timeout(self._deadline):
                while self._out and not self._broken:
                    self._drained = asyncio.get_running_loop().create_future()
                    await self._drained
        except TimeoutError:
            self._fail()
        if self._broken:
            raise SandboxGoneError("the client is gone or does not read")
        if self._after_write is not None:
            act, self._after_write = self._after_write, None
            act()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._out:
                del self._out[: os.write(self._write_fd, self._out)]
        except BlockingIOError:
            loop.add_writer(self._write_fd, self._flush)
            return
        except OSError:
            self._fail()
        with contextlib.suppress(PermissionError):
            loop.remove_writer(self._write_fd)
        if self._drained is not None:
            _wake(self._drained)

    def _fail(self) -> None:
        self._broken = True
        self._out.clear()
        asyncio.get_running_loop().remove_writer(self._write_fd)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
