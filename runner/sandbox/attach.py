"""Stdin, stdout and stderr of a container over one hijacked HTTP connection.

Nothing is read ahead: :meth:`AttachedStreams.read` takes one bounded read from the socket, so a
host that is slow slows the agent and never grows. An attached client that does not read blocks
``kill``, ``stop`` and ``inspect`` of its container in the engine: whoever ends a sandbox calls
:meth:`AttachedStreams.abort` first.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

from runner.errors import EngineError, SandboxGoneError
from runner.sandbox.agentlog import AgentLog
from runner.sandbox.frames import STDOUT, Demultiplexer

READ_SIZE = 64 * 1024
WRITE_DEADLINE = 30.0
ATTACH_DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where the engine listens: a Unix socket, or host and port (with TLS when given)."""

    socket: str = ""
    host: str = ""
    port: int = 0
    tls: ssl.SSLContext | None = None


class DeadlineWriter:
    """Hands bytes to a pipe or socket, and gives the reader at the other end up in the end."""

    def __init__(self, writer: asyncio.StreamWriter, deadline: float = WRITE_DEADLINE) -> None:
        self._writer = writer
        self._deadline = deadline
        self._writer.transport.set_write_buffer_limits(high=READ_SIZE)

    async def write(self, data: bytes) -> None:
        """Hand over all of ``data``.

        Raises:
            SandboxGoneError: the agent is gone, or has not read for the whole deadline.
        """
        if self._writer.transport.is_closing():
            raise SandboxGoneError("the agent's stdin is closed")
        try:
            self._writer.write(data)
            async with asyncio.timeout(self._deadline):
                await self._writer.drain()
        except TimeoutError:
            self.abort()
            raise SandboxGoneError(
                f"the agent did not read its stdin for {self._deadline:g} seconds",
                code="agent_stalled",
            ) from None
        except OSError as e:
            raise SandboxGoneError(f"the agent's stdin is closed: {e}") from None

    def abort(self) -> None:
        if not self._writer.transport.is_closing():
            self._writer.transport.abort()


class AttachedStreams:
    """The agent's streams over an attached connection; see ``AgentStreams`` of the Spawner."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        log: AgentLog,
        *,
        write_deadline: float = WRITE_DEADLINE,
    ) -> None:
        self._reader = reader
        self._writer = DeadlineWriter(writer, write_deadline)
        self._log = log
        self._frames = Demultiplexer()
        self._aborted = False

    async def read(self) -> bytes:
        while not self._aborted:
            try:
                data = await self._reader.read(READ_SIZE)
            except OSError:  # reset by an engine that ended: the same as the end of the stream
                data = b""
            if not data:
                self.abort()
                break
            out: list[bytes] = []
            for stream, piece in self._frames.feed(data):
                if stream <= STDOUT:
                    out.append(piece)
                else:
                    self._log.write(piece)
            if out:
                return b"".join(out)
        return b""

    async def write(self, data: bytes) -> None:
        await self._writer.write(data)

    def abort(self) -> None:
        self._aborted = True
        self._writer.abort()
        self._log.close()

    def stderr_tail(self) -> str:
        return self._log.tail()


async def attach(
    address: EngineAddress, api_version: str, container: str, log: AgentLog
) -> AttachedStreams:
    """Attach to a container, created or running; output from now on is not lost.

    Raises:
        SandboxGoneError: no such container, or it is being removed.
        EngineError: the engine does not answer in time, or refuses.
    """
    try:
        async with asyncio.timeout(ATTACH_DEADLINE):
            reader, writer = await _connect(address)
            try:
                await _upgrade(reader, writer, api_version, container)
            except BaseException:
                writer.transport.abort()
                raise
    except TimeoutError:
        raise EngineError(
            f"the engine did not attach to {container[:12]} in {ATTACH_DEADLINE:g} seconds"
        ) from None
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as e:
        raise EngineError(f"attaching to {container[:12]} failed: {e}") from None
    return AttachedStreams(reader, writer, log)


async def _connect(
    address: EngineAddress,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.socket:
        return await asyncio.open_unix_connection(address.socket, limit=READ_SIZE)
    return await asyncio.open_connection(
        address.host, address.port, ssl=address.tls, limit=READ_SIZE
    )


async def _upgrade(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, api_version: str, container: str
) -> None:
    writer.write(
        f"POST /v{api_version}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1"
        " HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        "Content-Length: 0\r\n\r\n".encode()
    )
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status in ([b"101"], [b"200"]):
        return
    words = head.split(b"\r\n", 1)[0].decode("latin-1")
    if status in ([b"404"], [b"409"]):
        raise SandboxGoneError(f"the container {container[:12]} is gone ({words})")
    raise EngineError(f"the engine refused to attach to {container[:12]}: {words}")
