"""``python -m runner.agent.bridge``: the host's tools as an MCP server on stdin and stdout.

For engines that are not ours: they start it as they start any MCP server. Each line goes to the
host's socket as a request of its own, and the answers come back as lines. Settings, token and
socket are those of the sandbox. Exit codes: 0 stdin has ended, 2 bad config.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from pathlib import Path

import msgspec

from runner.agent.app import RUN_DIR
from runner.agent.failures import ModelFailure
from runner.agent.notes import complain, note
from runner.agent.tools.host import LONGEST_CALL, MAX_ANSWER, PATH, request_headers
from runner.agent.transport import Deadlines, Transport
from runner.errors import ConfigError, LoginRequiredError, ProtocolError
from runner.settings.container import ContainerSettings, load_container_settings
from runner.wire.lines import LineReader

MAX_LINE = 1024 * 1024
# The host takes so many connections of a sandbox; the engine needs some for its model.
MAX_AT_ONCE = 4
MAX_WAITING = 64
READ_SIZE = 65536
_INTERNAL_ERROR = -32603


class _Params(msgspec.Struct):
    request: int | str | None = msgspec.field(name="requestId", default=None)


class _Frame(msgspec.Struct):
    """As much of a JSON-RPC message as a bridge has to know."""

    method: str = ""
    id: int | str | None = None


class _Cancel(msgspec.Struct):
    params: _Params = msgspec.field(default_factory=_Params)


class Bridge:
    """Carries lines to the socket; ``write`` takes what comes back."""

    def __init__(self, settings: ContainerSettings, socket: Path) -> None:
        self._settings = settings
        self._socket = socket
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._tasks: dict[int | str, asyncio.Task[None]] = {}

    async def run(self, read_fd: int, write_fd: int) -> None:
        """Until stdin ends; what is under way then is cancelled.

        Raises:
            ProtocolError: a line is too long.
        """
        self._write_fd = write_fd
        lines = LineReader(MAX_LINE)
        try:
            async with asyncio.TaskGroup() as tasks:
                while data := await asyncio.to_thread(os.read, read_fd, READ_SIZE):
                    for line in lines.feed(data):
                        self._take(line, tasks)
                for task in self._tasks.values():
                    task.cancel()
        except* ProtocolError as e:
            raise e.exceptions[0] from None

    def _take(self, line: bytes, tasks: asyncio.TaskGroup) -> None:
        try:
            frame = msgspec.json.decode(line, type=_Frame)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
            note("bridge.bad_line", why=str(e))
            return
        if frame.method == "notifications/cancelled":
            asked = msgspec.json.decode(line, type=_Cancel).params.request
            if asked is not None and (task := self._tasks.get(asked)):
                task.cancel()
        if frame.id is None or not frame.method:
            return  # the host keeps no conversation, so a notification has nobody to tell
        if len(self._tasks) >= MAX_WAITING or frame.id in self._tasks:
            self._refuse(frame.id, "too many requests wait already")
            return
        task = tasks.create_task(self._carry(frame.id, line), name="carry")
        self._tasks[frame.id] = task
        task.add_done_callback(functools.partial(self._done, frame.id))

    def _done(self, id_: int | str, _task: asyncio.Task[None]) -> None:
        self._tasks.pop(id_, None)

    async def _carry(self, id_: int | str, line: bytes) -> None:
        # A connection for each: none that is kept, so none that is found closed and asked again.
        transport = Transport(
            "http://nanokimi.internal", self._socket, Deadlines(idle=LONGEST_CALL)
        )
        try:
            headers = request_headers(self._settings.tools_credential)
            async with self._slots, transport.post(PATH, headers, line) as response:
                body = await response.all(MAX_ANSWER)
                status = response.status
        except (ModelFailure, LoginRequiredError) as e:
            self._refuse(id_, f"the host cannot be reached ({e.code})")
            return
        if body is None or status != 200:
            self._refuse(id_, f"the host answered {status}")
        else:
            self._write(body)

    def _refuse(self, id_: int | str, why: str) -> None:
        error = {"code": _INTERNAL_ERROR, "message": why}
        self._write(msgspec.json.encode({"jsonrpc": "2.0", "id": id_, "error": error}))

    def _write(self, body: bytes) -> None:
        rest = memoryview(body.replace(b"\n", b" ") + b"\n")
        while rest:
            rest = rest[os.write(self._write_fd, rest) :]


def main() -> int:
    home = Path(os.environ.get("HOME", "/"))
    try:
        settings = load_container_settings(home)
        if not settings.tools_socket:
            raise ConfigError("the host offers no tools here", hint="take the server out")
    except ConfigError as e:
        complain(e.message, e.hint)
        return e.exit_code
    socket = Path(os.environ.get("NANOKIMI_RUN_DIR", RUN_DIR)) / settings.tools_socket
    asyncio.run(Bridge(settings, socket).run(0, 1))
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a thread in a read of stdin must not hold up the end
