"""A lean blocking HTTP client: what it costs itself must not hide what is measured."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

DEADLINE = 60.0


class Failed(Exception):
    """An answer that no measure can use."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def connection(url: str) -> http.client.HTTPConnection:
    """A connection that is kept open between requests."""
    address = urlsplit(url)
    assert address.hostname is not None
    return http.client.HTTPConnection(address.hostname, address.port, timeout=DEADLINE)


def call(
    over: http.client.HTTPConnection,
    method: str,
    path: str,
    *,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Any:
    """One request; the JSON of its answer. Raises: Failed."""
    content = None if body is None else json.dumps(body).encode()
    over.request(method, path, content, {"content-type": "application/json", **(headers or {})})
    answer = over.getresponse()
    text = answer.read()
    if answer.status >= 400:
        raise Failed(f"{method} {path}: HTTP {answer.status} {text[:500]!r}")
    return json.loads(text) if text else None


@dataclass(frozen=True, slots=True)
class Turn:
    """When a message was sent and its end was read, as ``time.monotonic()``.

    ``dispatched`` is the seconds that the host took from taking the message in to its turn, by the
    ids of the two events, which are microseconds of its clock.
    """

    sent: float
    finished: float
    text: str
    dispatched: float


class ApiClient:
    """The HTTP API of a host, over one connection."""

    def __init__(self, url: str, token: str) -> None:
        self._over = connection(url)
        self._headers = {"authorization": f"Bearer {token}"}

    def turn(self, group: str, text: str) -> Turn:
        """Send a message and read its events until the turn has ended. Raises: Failed."""
        body = json.dumps({"text": text, "sender": "Ada"}).encode()
        path = f"/api/groups/{quote(group, safe='')}/messages"
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        sent = time.monotonic()
        self._over.request("POST", path, body, {**self._headers, **headers})
        answer = self._over.getresponse()
        if answer.status != 200:
            raise Failed(f"POST {path}: HTTP {answer.status} {answer.read()[:500]!r}")
        turn: Turn | None = None
        ids: dict[str, int] = {}
        id_, kind = 0, ""
        while line := answer.readline():
            if line.startswith(b"id: "):
                id_ = int(line[4:])
            elif line.startswith(b"event: "):
                kind = line[7:].strip().decode()
                ids.setdefault(kind, id_)
            elif line.startswith(b"data: ") and kind == "turn.finished":
                finished = time.monotonic()
                dispatched = (ids["turn.started"] - ids["message.accepted"]) / 1e6
                turn = Turn(sent, finished, json.loads(line[6:])["text"], dispatched)
            elif line.startswith(b"data: ") and kind == "turn.failed":
                raise Failed(f"the turn failed: {line[6:].decode()}")
        if turn is None:
            raise Failed("the stream of events ended before the turn did")
        return turn

    def put_groups(self, groups: Iterable[str]) -> None:
        """Register groups. Raises: Failed."""
        for group in groups:
            path = f"/api/groups/{quote(group, safe='')}"
            call(self._over, "PUT", path, body={}, headers=self._headers)

    def post(self, group: str, text: str) -> None:
        """Send a message and wait for no more than that it is on disk. Raises: Failed."""
        self._call("POST", f"/api/groups/{quote(group, safe='')}/messages", {"text": text})

    def stop(self, group: str) -> None:
        """End the group's sandbox; returns when it is gone. Raises: Failed."""
        self._call("POST", f"/api/groups/{quote(group, safe='')}/stop")

    def close(self) -> None:
        self._over.close()

    def _call(self, method: str, path: str, body: object = None) -> Any:
        return call(self._over, method, path, body=body, headers=self._headers)
