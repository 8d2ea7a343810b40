"""The processes that tools start: their output is bounded, and their whole tree ends.

The agent is pid 1 or a subreaper, so every process below it, however it detached itself, stays its
descendant: ``/proc`` shows the tree, and no mark in the environment has to survive.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.agent.output import HeadTail

READ_SIZE = 65536
# After the shell is gone its background children may hold the pipe: take what is there, no more.
DRAIN_QUIET = 0.1
DRAIN_LIMIT = 1.0
KILL_DEADLINE = 2.0
KILL_PAUSE = 0.01


@dataclass(frozen=True, slots=True)
class Finished:
    """``exit_code`` is ``None`` when the deadline came first; signals count as 128 + n."""

    exit_code: int | None
    output: str


class Children:
    """All child processes of the agent; must be created inside the running event loop.

    Takes over SIGCHLD: children of tools are waited for here, and orphans that the kernel hands to
    the agent are reaped.
    """

    def __init__(self) -> None:
        self._own: dict[int, tuple[subprocess.Popen[bytes], asyncio.Future[int]]] = {}
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        self._reap()

    async def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        timeout: float,
        keep: int,
    ) -> Finished:
        """Run to the end, at most ``timeout`` seconds; keep head and tail of ``keep`` characters.

        Input is ``/dev/null``, stderr goes where stdout goes. When the time is up or the caller is
        cancelled, everything the command started is killed; when it ends by itself, what it left in
        the background lives on.

        Raises:
            OSError: it cannot be started.
        """
        spare = set(descendants(os.getpid()))
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read_fd, False)
        try:
            child = subprocess.Popen(  # noqa: ASYNC220  vfork and exec: under a millisecond
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                start_new_session=True,
            )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._own[child.pid] = (child, done)
        pipe = _Pipe(read_fd, HeadTail(keep))
        try:
            try:
                async with asyncio.timeout(timeout):
                    code: int | None = await asyncio.shield(done)
            except TimeoutError:
                code = None
                await self._end_tree(child.pid, spare)
            await pipe.drain()
        except asyncio.CancelledError:
            await self._end_tree(child.pid, spare)
            raise
        finally:
            pipe.let_go()
        return Finished(code if code is None or code >= 0 else 128 - code, pipe.kept.text())

    def end_all(self) -> None:
        """Kill every process below the agent, at once. For the agent's own end."""
        for _ in range(100):
            living = [pid for pid, _ in descendants(os.getpid())]
            if not living:
                return
            _kill_everything() if os.getpid() == 1 else _kill(living)

    async def _end_tree(self, pid: int, spare: set[tuple[int, int]]) -> None:
        """Kill what came up since ``spare`` was taken, except below other running commands."""
        try:
            async with asyncio.timeout(KILL_DEADLINE):
                while living := self._tree(pid, spare):
                    _kill(living)
                    await asyncio.sleep(KILL_PAUSE)
        except TimeoutError:  # it forks faster than it can be found
            if os.getpid() == 1:
                _kill_everything()

    def _tree(self, pid: int, spare: set[tuple[int, int]]) -> list[int]:
        others = {own for own in self._own if own != pid}
        return [found for found, _ in descendants(os.getpid(), skip=spare, skip_pids=others)]

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            own = self._own.pop(found.si_pid, None)
            if own is None:
                os.waitpid(found.si_pid, 0)
            else:
                child, done = own
                code = child.wait()
                if not done.done():
                    done.set_result(code)


class _Pipe:
    """Reads a command's output as fast as it comes and keeps a bounded part of it."""

    def __init__(self, fd: int, kept: HeadTail) -> None:
        self._fd = fd
        self.kept = kept
        self._ended = asyncio.Event()
        self._came = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, self._read)

    async def drain(self) -> None:
        """Wait for the end of the output, or until it is quiet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_LIMIT):
                while not self._ended.is_set():
                    self._came.clear()
                    async with asyncio.timeout(DRAIN_QUIET):
                        await self._came.wait()

    def let_go(self) -> None:
        """Keep nothing more; go on reading, so that a background child does not stall or break."""
        self.kept.close()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._came.set()
        if data:
            self.kept.feed(data)
            return
        self._ended.set()
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)


def descendants(
    root: int,
    *,
    skip: set[tuple[int, int]] | frozenset[tuple[int, int]] = frozenset(),
    skip_pids: set[int] | frozenset[int] = frozenset(),
) -> list[tuple[int, int]]:
    """Living processes below ``root`` as ``(pid, start time)``, without skipped ones' subtrees."""
    children: dict[int, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  names are all we want
        if name.isdigit() and (seen := _stat(name)) is not None:
            parent, start = seen
            children.setdefault(parent, []).append((int(name), start))
    found: list[tuple[int, int]] = []
    todo = [root]
    while todo:
        for pid, start in children.get(todo.pop(), ()):
            if (pid, start) not in skip and pid not in skip_pids:
                found.append((pid, start))
                todo.append(pid)
    return found


def _stat(pid: str) -> tuple[int, int] | None:
    """``(parent, start time)`` of a process that is not a zombie; proc(5).

    A zombie with more than one thread is a live process whose main thread has ended.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
        return None
    return int(fields[1]), int(fields[19])


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _kill_everything() -> None:
    """Every process in the sandbox but this one; only for pid 1, where -1 means the container."""
    assert os.getpid() == 1
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
