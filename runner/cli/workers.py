"""Several processes that listen at one address, and who keeps them alive.

The parent holds the address and does not listen itself; the kernel spreads connections over the
workers that do. A worker that dies takes along what had reached it and nothing else, and new
connections go to the others. A worker ends when it is told to, or when its standard input ends:
that is the parent's death, however it came.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence

import structlog

from runner.errors import NanokimiError, PermanentError, TemporaryError

log = structlog.get_logger()

MAX_WORKERS = 64
START_DEADLINE = 60.0
END_DEADLINE = 20.0
"""A worker that was told to end lets calls finish for 3 s, then writes its books."""

_READY = b"ready\n"
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 10.0
_STABLE = 30.0


def backoff(deaths: int) -> float:
    """Seconds to wait before a worker is started again, after so many early deaths in a row."""
    return min(_FIRST_BACKOFF * 2.0 ** min(deaths - 1, 10), _LONGEST_BACKOFF)


class Workers:
    """Keeps ``count`` workers running.

    Args:
        command: the command line of a worker, by its number from 0.
        environ: their environment.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        count: int,
        environ: Mapping[str, str],
    ) -> None:
        self._command = command
        self._count = count
        self._environ = environ
        self._processes: dict[int, Process] = {}

    async def run(self, stop: asyncio.Event, serving: Callable[[], None]) -> None:
        """Until ``stop``; ``serving`` is called when all serve. No worker is left afterwards.

        Raises:
            PermanentError: one does not even start; what it said is on stderr.
            TemporaryError: the system has no room for one.
        """
        work = asyncio.create_task(self._work(serving), name="workers")
        told = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, told):
                task.cancel()
            await asyncio.wait({work, told})
            await asyncio.gather(*(_end(process) for process in self._processes.values()))

    def kill(self) -> None:
        """End them at once, without a word."""
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()

    async def _work(self, serving: Callable[[], None]) -> None:
        # One before the others: it makes the files that are not there yet.
        await self._begin(0)
        await asyncio.gather(*(self._begin(number) for number in range(1, self._count)))
        serving()
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._keep(number), name=f"worker {number}")

    async def _keep(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        deaths = 0
        while True:
            began = loop.time()
            process = self._processes[number]
            code = await process.wait()
            deaths = 1 if loop.time() - began > _STABLE else deaths + 1
            pause = backoff(deaths)
            log.error(
                "gateway.worker_died", worker=number, pid=process.pid, code=code, again_in=pause
            )
            await asyncio.sleep(pause)
            try:
                await self._begin(number)
            except NanokimiError as e:
                log.error("gateway.worker_not_started", worker=number, error=e.message)

    async def _begin(self, number: int) -> None:
        """Start a worker, and wait until it serves. Raises: PermanentError, TemporaryError."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(number),
                stdin=PIPE,
                stdout=PIPE,
                env=self._environ,
                start_new_session=True,  # Ctrl-C is for the parent, which tells them
            )
        except OSError as e:
            raise TemporaryError(
                f"a gateway worker cannot be started: {e.strerror}",
                hint="free some memory or processes, or use fewer --workers",
            ) from None
        self._processes[number] = process
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_DEADLINE):
                said = await process.stdout.readline()
        except TimeoutError:
            said = b""
        if said != _READY:
            await _end(process)
            raise PermanentError(
                f"a gateway worker ended before it served (code {process.returncode})",
                hint="what it said stands above; --workers 1 shows it alone",
                code="worker_not_started",
            )
        log.info("gateway.worker_started", worker=number, pid=process.pid)


def say_ready(orphaned: Callable[[], None]) -> None:
    """In a worker that serves: tell the parent, and call ``orphaned`` when that is gone."""
    loop = asyncio.get_running_loop()
    stdin, stdout = sys.__stdin__, sys.__stdout__
    assert stdin is not None
    assert stdout is not None

    def readable() -> None:
        if not os.read(stdin.fileno(), 1024):
            loop.remove_reader(stdin.fileno())
            orphaned()

    loop.add_reader(stdin.fileno(), readable)
    os.write(stdout.fileno(), _READY)


async def _end(process: Process) -> None:
    """SIGTERM, and SIGKILL when that was not enough."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(END_DEADLINE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
