"""Runs JSON-RPC over a pair of byte streams: the same class on both sides of the wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec

from runner.errors import ProtocolError, SandboxGoneError
from runner.wire import rpc
from runner.wire.lines import MAX_LINE, LineReader

_T = TypeVar("_T")

MAX_OPEN_REQUESTS = 64
_OUR_BUG = rpc.RpcError(rpc.INTERNAL_ERROR, "internal error")


class Channel(Protocol):
    """A pair of byte streams. Docker attach, a subprocess, a pty: all look like this."""

    async def read(self) -> bytes:
        """The next bytes in any split; ``b""`` at the end of the stream."""
        ...

    async def write(self, data: bytes) -> None:
        """Hand over all of ``data``; the implementation has a deadline of its own.

        Raises:
            SandboxGoneError: the other side is gone or does not read.
        """
        ...


RequestHandler = Callable[[str, msgspec.Raw], Awaitable[object]]
NotificationHandler = Callable[[str, msgspec.Raw], None]


class Rejection(Exception):
    """Raised by a request handler to answer with an error instead of a result."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.error = rpc.RpcError(code, message, data)


class Budget:
    """How much the peer may send before it counts as a flood; refilled by its owner."""

    def __init__(self, frames: int, size: int) -> None:
        self._full = (frames, size)
        self.frames, self.size = frames, size

    def refill(self) -> None:
        self.frames, self.size = self._full

    def take(self, size: int, *, frames: int) -> None:
        """Count ``size`` bytes that held so many ``frames``.

        Raises:
            ProtocolError: it was too much.
        """
        self.frames -= frames
        self.size -= size
        if self.frames < 0 or self.size < 0:
            raise ProtocolError(
                f"a flood: more than {self._full[0]} frames or {self._full[1]} bytes in one turn",
                code="protocol_flood",
            )


class Peer:
    """One end of a JSON-RPC connection.

    :meth:`run` reads until the stream ends and must be running for :meth:`request` to be answered.
    Notifications are handled in order and at once; requests run as tasks of this peer.

    Args:
        channel: the byte streams.
        on_request: answers a request of the other side; :class:`Rejection` becomes an error.
        on_notification: must not block. A ``msgspec.DecodeError`` of its is the peer's mistake.
        budget: bound on what the other side may send; ``None`` trusts it.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        on_request: RequestHandler,
        on_notification: NotificationHandler,
        budget: Budget | None = None,
        max_line: int = MAX_LINE,
    ) -> None:
        self._channel = channel
        self._on_request = on_request
        self._on_notification = on_notification
        self._budget = budget
        self._lines = LineReader(max_line)
        self._pending: dict[rpc.Id, asyncio.Future[msgspec.Raw]] = {}
        self._abandoned: OrderedDict[rpc.Id, None] = OrderedDict()
        self._next_id = 0
        self._write_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writes: set[asyncio.Task[None]] = set()
        self._ended: BaseException | None = None

    async def run(self) -> None:
        """Read and dispatch until the other side closes.

        Raises:
            ProtocolError: the other side broke the protocol. Open requests fail with it too.
        """
        end: BaseException = SandboxGoneError("the other side closed the connection")
        try:
            while data := await self._channel.read():
                if self._budget is not None:  # blank lines cost as much to read as others
                    self._budget.take(len(data), frames=data.count(b"\n"))
                for line in self._lines.feed(data):
                    self._dispatch(rpc.decode(line))
                await asyncio.sleep(0)  # who never stops sending must not keep others from theirs
        except BaseException as e:
            end = e
            raise
        finally:
            self._end(end)

    def _end(self, why: BaseException) -> None:
        self._ended = why
        for future in self._pending.values():
            if not future.done():
                future.set_exception(
                    why
                    if isinstance(why, Exception)
                    else SandboxGoneError("the connection was given up")
                )
                future.exception()  # its waiter may be gone: do not warn
        self._pending.clear()
        for task in self._tasks:
            task.cancel()

    def _dispatch(self, frame: rpc.Frame) -> None:
        match frame:
            case rpc.Notification(method, params):
                try:
                    self._on_notification(method, params)
                except msgspec.DecodeError as e:
                    raise ProtocolError(
                        f"a wrong {method[:40]}: {e}", code="protocol_bad_frame"
                    ) from None
            case rpc.Request():
                if len(self._tasks) >= MAX_OPEN_REQUESTS:
                    raise ProtocolError(
                        f"more than {MAX_OPEN_REQUESTS} open requests", code="protocol_flood"
                    )
                task = asyncio.create_task(self._answer(frame), name=f"answer {frame.method[:40]}")
                self._tasks.add(task)
                task.add_done_callback(self._answered)
            case rpc.Response(id_, result, error):
                future = self._pending.pop(id_, None)
                if future is None:
                    if self._abandoned.pop(id_, False) is None:
                        return
                    raise ProtocolError(
                        f"an answer to a request that was never made (id {str(id_)[:40]!r})",
                        code="protocol_unknown_id",
                    )
                if future.done():
                    return
                if error is not None:
                    future.set_exception(rpc.RemoteError(error))
                else:
                    assert result is not None
                    future.set_result(result)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            task.get_loop().call_exception_handler(
                {"message": "a request handler failed", "exception": bug, "task": task}
            )

    async def _answer(self, request: rpc.Request) -> None:
        try:
            line = rpc.encode_result(
                request.id, await self._on_request(request.method, request.params)
            )
        except Rejection as e:
            line = rpc.encode_error(request.id, e.error)
        except msgspec.DecodeError as e:
            line = rpc.encode_error(request.id, rpc.RpcError(rpc.INVALID_PARAMS, str(e)))
        except Exception:
            # A bug of ours: the other side must not wait for ever, and we must see it.
            await self._send(rpc.encode_error(request.id, _OUR_BUG))
            raise
        with contextlib.suppress(SandboxGoneError):  # nobody is left to be told; run() says so
            await self._send(line)

    async def request(
        self, method: str, params: object, result: type[_T], *, timeout: float | None
    ) -> _T:
        """Call the other side and wait at most ``timeout`` seconds (``None``: as long as it lives).

        Raises:
            rpc.RemoteError: it answered with an error.
            TimeoutError: no answer in time; a late one is ignored.
            SandboxGoneError, ProtocolError: the connection ended first.
        """
        if self._ended is not None:
            raise SandboxGoneError("the connection has ended")
        self._next_id += 1
        id_ = self._next_id
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._pending[id_] = future
        try:
            async with asyncio.timeout(timeout):
                await self._send(rpc.encode_request(id_, method, params))
                raw = await future
        except BaseException:
            if self._pending.pop(id_, None) is not None:
                self._abandoned[id_] = None
                while len(self._abandoned) > MAX_OPEN_REQUESTS:
                    self._abandoned.popitem(last=False)
            raise
        try:
            return msgspec.json.decode(raw, type=result)
        except msgspec.DecodeError as e:
            raise ProtocolError(
                f"a wrong answer to {method}: {e}", code="protocol_bad_frame"
            ) from None

    async def notify(self, method: str, params: object) -> None:
        """Tell the other side; no answer is expected.

        Raises:
            SandboxGoneError: the other side is gone or does not read.
        """
        await self._send(rpc.encode_notification(method, params))

    async def _send(self, line: bytes) -> None:
        # A line is written whole even when its sender gives up: half a line breaks the stream.
        write = asyncio.create_task(self._write(line), name="write a line")
        self._writes.add(write)
        write.add_done_callback(self._written)
        await asyncio.shield(write)

    async def _write(self, line: bytes) -> None:
        async with self._write_lock:
            await self._channel.write(line)

    def _written(self, write: asyncio.Task[None]) -> None:
        self._writes.discard(write)
        if not write.cancelled():
            write.exception()  # its sender may be gone: do not warn
