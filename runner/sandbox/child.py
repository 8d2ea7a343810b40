"""A child process and its streams, as a sandbox sees them."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.errors import EngineError
from runner.sandbox.agentlog import AgentLog
from runner.sandbox.attach import READ_SIZE, WRITE_DEADLINE, DeadlineWriter


class _Protocol(SubprocessStreamProtocol):
    """Tells when the process ends, also when a grandchild still holds its pipes."""

    def __init__(self) -> None:
        super().__init__(limit=READ_SIZE, loop=asyncio.get_running_loop())
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


class ChildStreams:
    """See ``AgentStreams`` of the Spawner. A task of its own drains stderr into the log."""

    def __init__(
        self,
        transport: asyncio.SubprocessTransport,
        process: Process,
        log: AgentLog,
        write_deadline: float,
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._transport = transport
        self._stdout = process.stdout
        self._stderr = process.stderr
        self._log = log
        self._writer = DeadlineWriter(process.stdin, write_deadline)
        self._aborted = False
        self._drain = asyncio.create_task(self._drain_stderr(), name="agent stderr")

    async def read(self) -> bytes:
        if self._aborted:
            return b""
        try:
            data = await self._stdout.read(READ_SIZE)
        except OSError:
            return b""
        return b"" if self._aborted else data

    async def write(self, data: bytes) -> None:
        await self._writer.write(data)

    def abort(self) -> None:
        self._aborted = True
        self._writer.abort()
        for fd in (1, 2):
            if (pipe := self._transport.get_pipe_transport(fd)) is not None:
                pipe.close()

    def stderr_tail(self) -> str:
        return self._log.tail()

    async def drained(self, deadline: float) -> None:
        """Wait at most ``deadline`` seconds for the last words on stderr."""
        await asyncio.wait([self._drain], timeout=deadline)

    async def _drain_stderr(self) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await self._stderr.read(READ_SIZE):
                    self._log.write(data)
        finally:
            self._log.close()


class Child:
    """A started process; ``exit_code`` counts signals as a shell does (137 for SIGKILL)."""

    def __init__(
        self, process: Process, transport: asyncio.SubprocessTransport, protocol: _Protocol,
        log: AgentLog, write_deadline: float,
    ) -> None:  # fmt: skip
        self._transport = transport
        self._protocol = protocol
        self.pid = process.pid
        self.streams = ChildStreams(transport, process, log, write_deadline)

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        log: AgentLog,
        pass_fds: Sequence[int] = (),
        write_deadline: float = WRITE_DEADLINE,
    ) -> Child:
        """Run ``command`` in a session of its own with pipes for its three streams.

        Raises:
            EngineError: it cannot be started.
        """
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await loop.subprocess_exec(
                _Protocol, *command, stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                cwd=cwd, env=dict(env), pass_fds=tuple(pass_fds), start_new_session=True,
            )  # fmt: skip
        except OSError as e:
            raise EngineError(
                f"{command[0]} cannot be started: {e.strerror}",
                hint="check that the command exists on this machine",
            ) from None
        process = Process(transport, protocol, loop)
        return cls(process, transport, protocol, log, write_deadline)

    @property
    def exit_code(self) -> int | None:
        code = self._transport.get_returncode()
        return code if code is None or code >= 0 else 128 - code

    async def ended(self, deadline: float) -> bool:
        """Wait at most ``deadline`` seconds for its end."""
        try:
            async with asyncio.timeout(deadline):
                await self._protocol.exited.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Let go of pipes and process; kills it when it still runs."""
        self.streams.abort()
        self._transport.close()
