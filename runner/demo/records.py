"""Every request the demo provider gets, kept for tests to look at, with exact times."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_RECORDS = 5_000
MAX_BODY = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Times are ``time.monotonic()`` seconds, the same for all processes.

    ``received_at``: its head was there. ``started_at``: the answer's head goes to the socket.
    ``finished_at``: its last byte does. The later two, and ``status``, are ``None`` while it runs;
    a broken answer has no ``finished_at``.
    """

    number: int
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    received_at: float
    status: int | None = None
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is not JSON.
        """
        return json.loads(self.body)


class Records:
    """The last 5,000 requests. Thread-safe; :meth:`wait_for` blocks its thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records: OrderedDict[int, Record] = OrderedDict()
        self._next = 0

    def all(self) -> list[Record]:
        with self._changed:
            return list(self._records.values())

    def clear(self) -> None:
        with self._changed:
            self._records.clear()

    def begin(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, at: float
    ) -> int:
        with self._changed:
            self._next += 1
            self._records[self._next] = Record(self._next, method, path, headers, body, at)
            if len(self._records) > MAX_RECORDS:
                self._records.popitem(last=False)
            self._changed.notify_all()
            return self._next

    def update(self, number: int, **changes: Any) -> None:
        with self._changed:
            if number in self._records:
                self._records[number] = replace(self._records[number], **changes)
                self._changed.notify_all()

    def wait_for(self, ready: Callable[[list[Record]], bool], timeout: float) -> list[Record]:
        """Block until ``ready(records)`` holds.

        Raises:
            TimeoutError: not within ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: ready(list(self._records.values())), timeout):
                raise TimeoutError(
                    f"not within {timeout} s; there were {len(self._records)} requests"
                )
            return list(self._records.values())


class Recording:
    """Middleware that reads each request whole and writes it down, except below ``/_demo``."""

    def __init__(self, app: ASGIApp, records: Records) -> None:
        self._app = app
        self._records = records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_demo"):
            await self._app(scope, receive, send)
            return
        at = time.monotonic()
        body = await _read(receive)
        if body is None:
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        headers = dict(Headers(scope=scope))
        number = self._records.begin(scope["method"], scope["path"], headers, body, at)
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def note(message: Message) -> None:
            # Written down first: whoever has the answer finds it here.
            now = time.monotonic()
            if message["type"] == "http.response.start":
                self._records.update(number, status=message["status"], started_at=now)
            elif not message.get("more_body", False):
                self._records.update(number, finished_at=now)
            await send(message)

        await self._app(scope, replay, note)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; ``None`` when it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
