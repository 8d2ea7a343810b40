"""A bot's end of the webhooks, as strict as a careful one, that fails when a test says so."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import h11

DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say to one request; ``body`` may be anything."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"ok"


HANG = "hang"
"""Read the request, and say nothing until the other side goes."""
DROP = "drop"
"""Read and keep the request, and end the connection without a word."""
TRICKLE = "trickle"
"""Say yes, and never come to the end of it."""

Behaviour = Answer | str


@dataclass(slots=True)
class Receiver:
    """``seen`` is every request that was whole and rightly signed, in order of arrival.

    ``secret`` gives the key that requests have to be signed with. What a careful bot would refuse
    is in ``violations``, and gets 400.
    """

    secret: Callable[[], bytes]
    seen: list[dict[str, Any]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    paths: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    _bodies: dict[str, bytes] = field(default_factory=dict)
    _scripts: dict[str, deque[Behaviour]] = field(default_factory=lambda: defaultdict(deque))
    _always: dict[str, Behaviour] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _server: asyncio.Server | None = None
    _open: set[asyncio.Task[Any]] = field(default_factory=set)
    port: int = 0

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def script(self, *behaviours: Behaviour, path: str = "/hook") -> None:
        """How the next requests to the path fare; those after them are accepted."""
        self._scripts[path].extend(behaviours)

    def always(self, behaviour: Behaviour, path: str = "/hook") -> None:
        """How all requests to the path fare that no script is left for."""
        self._always[path] = behaviour

    @property
    def told(self) -> list[dict[str, Any]]:
        """What a bot that knows its keys would have told its chats, in order."""
        once = {body["delivery_id"]: body for body in reversed(self.seen)}
        order = list(dict.fromkeys(body["delivery_id"] for body in self.seen))
        return [once[key] for key in order]

    def texts(self, event: str = "turn.finished") -> list[str]:
        return [body["text"] for body in self.told if body["event"] == event]

    async def until(self, condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
        """Wait until something has arrived that makes this true."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(condition)

    async def until_told(self, count: int, seconds: float = DEADLINE) -> list[dict[str, Any]]:
        """Wait for so many different deliveries."""
        await self.until(lambda: len(self.counts) >= count, seconds)
        return self.told

    async def __aenter__(self) -> Receiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with contextlib.suppress(ConnectionError, h11.RemoteProtocolError):
                while await self._one(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            self._open.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        wire = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
        request: h11.Request | None = None
        body = b""
        while True:
            event = wire.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(1 << 16)
                wire.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert request is not None
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            answer = await self._judge(request, body)
            if answer is HANG:
                await reader.read(1)
            if isinstance(answer, Answer):
                await _say(wire, writer, answer)
                return True
            if answer is TRICKLE:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx")
                await writer.drain()
                await reader.read(1)
            return False
        finally:
            self.at_once -= 1

    async def _judge(self, request: h11.Request, body: bytes) -> Behaviour:
        path = request.target.decode()
        headers = {name.decode(): value.decode() for name, value in request.headers}
        async with self._changed:
            self.paths.append(path)
            script = self._scripts[path]
            behaviour = script.popleft() if script else self._always.get(path, Answer())
            if why := self._refusal(request.method, headers, body):
                self.violations.append(why)
                behaviour = Answer(400, body=why.encode())
            elif behaviour in (DROP, TRICKLE) or behaviour == Answer():
                self._keep(json.loads(body), body)
            self._changed.notify_all()
        return behaviour

    def _refusal(self, method: bytes, headers: dict[str, str], body: bytes) -> str:
        if method != b"POST" or headers.get("content-type") != "application/json":
            return f"{method!r} with {headers.get('content-type')}"
        right = hmac.new(self.secret(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(headers.get("x-nanokimi-signature", ""), f"sha256={right}"):
            return "the signature is wrong"
        said = json.loads(body)
        key = headers.get("idempotency-key", "")
        if key != said.get("delivery_id") or not key:
            return f"the key {key!r} is not the delivery's id"
        if headers.get("x-nanokimi-event") != said.get("event"):
            return "the event of the header is another"
        if "authorization" in headers or "cookie" in headers:
            return "credentials that nobody asked for"
        if self._bodies.get(key, body) != body:
            return f"{key} came with another body"
        return ""

    def _keep(self, said: dict[str, Any], body: bytes) -> None:
        key = said["delivery_id"]
        self._bodies[key] = body
        self.counts[key] += 1
        self.seen.append(said)


async def _say(wire: h11.Connection, writer: asyncio.StreamWriter, answer: Answer) -> None:
    headers = [("content-length", str(len(answer.body))), *answer.headers]
    said = wire.send(h11.Response(status_code=answer.status, headers=headers))
    said += wire.send(h11.Data(data=answer.body)) + wire.send(h11.EndOfMessage())
    writer.write(said)
    await writer.drain()
