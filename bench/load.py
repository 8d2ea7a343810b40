"""Many callers of a chat API at once, at a small part of what any server spends on them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from bench.http import DEADLINE, Failed

DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Door:
    """Where a model is asked: the base before ``/chat/completions``, the key, the model's name."""

    base: str
    key: str
    model: str


@dataclass(frozen=True, slots=True)
class Took:
    """Milliseconds of one call, until the first and the last byte of its answer's body."""

    first: float
    total: float


class Caller(asyncio.Protocol):
    """One connection, kept open; one call at a time."""

    def __init__(self, door: Door, *, stream: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._request = _request(door, stream=stream)
        self._lost: Exception | None = None
        self._answered: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._first: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._to = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc or ConnectionResetError("the server closed the connection")
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(self._lost)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if self._first is None:
            self._first = time.perf_counter()
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    async def ask(self) -> Took:
        """Raises: Failed: the answer is an error, or not whole."""
        self._parser = httptools.HttpResponseParser(self)
        self._body = []
        self._first = None
        self._answered = self._loop.create_future()
        if self._lost is not None:
            raise Failed(str(self._lost))
        began = time.perf_counter()
        self._to.write(self._request)
        try:
            await asyncio.wait_for(self._answered, DEADLINE)
        except (OSError, TimeoutError) as e:
            raise Failed(f"no answer: {type(e).__name__} {e}") from None
        ended = time.perf_counter()
        status = self._parser.get_status_code()
        whole = not self._stream or any(DONE in part for part in self._body[-3:])
        if status != 200 or self._first is None or not whole:
            raise Failed(f"HTTP {status} {b''.join(self._body)[-500:]!r}")
        return Took((self._first - began) * 1000, (ended - began) * 1000)

    @property
    def said(self) -> str:
        """The text of the last answer."""
        text = b"".join(self._body)
        if not self._stream:
            return str(json.loads(text)["choices"][0]["message"]["content"])
        events = [line[6:] for line in text.splitlines() if line.startswith(b"data: {")]
        choices = [c for event in events for c in json.loads(event)["choices"]]
        return "".join(c["delta"].get("content") or "" for c in choices)

    def close(self) -> None:
        self._to.close()


@asynccontextmanager
async def callers(door: Door, count: int, *, stream: bool) -> AsyncIterator[list[Caller]]:
    """Connected callers inside the block."""
    address = urlsplit(door.base)
    assert address.hostname is not None
    assert address.port is not None
    loop = asyncio.get_running_loop()
    made: list[Caller] = []
    try:
        for _ in range(count):
            _, caller = await loop.create_connection(
                lambda: Caller(door, stream=stream), address.hostname, address.port
            )
            made.append(caller)
        yield made
    finally:
        for caller in made:
            caller.close()


async def run(
    asking: Sequence[Caller], seconds: float, *, pause: float = 0.0, seed: int = 0
) -> tuple[list[Took], float]:
    """Let callers ask over and over; what their calls took, and the seconds it lasted.

    Args:
        pause: up to so many seconds, by chance, between a caller's answer and its next call, so
            that calls come one by one and not all at the same moment.
    """
    chance = random.Random(seed)
    took: list[Took] = []
    began = time.perf_counter()

    async def one(caller: Caller) -> None:
        while True:
            if pause:
                await asyncio.sleep(chance.uniform(0, pause))
            if time.perf_counter() - began >= seconds:
                return
            took.append(await caller.ask())

    async with asyncio.TaskGroup() as tasks:
        for caller in asking:
            tasks.create_task(one(caller))
    return took, time.perf_counter() - began


async def run_calls(asking: Sequence[Caller], count: int) -> None:
    """Let callers ask ``count`` times together."""
    left = iter(range(count))

    async def one(caller: Caller) -> None:
        for _ in left:
            await caller.ask()

    async with asyncio.TaskGroup() as tasks:
        for caller in asking:
            tasks.create_task(one(caller))


def _request(door: Door, *, stream: bool) -> bytes:
    address = urlsplit(door.base)
    body: dict[str, object] = {"model": door.model, "messages": MESSAGES, "max_tokens": 1024}
    if stream:
        body["stream"] = True
    text = json.dumps(body).encode()
    head = (
        f"POST {address.path}/chat/completions HTTP/1.1\r\n"
        f"host: {address.netloc}\r\nauthorization: Bearer {door.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


def _conversation() -> Iterator[dict[str, str]]:
    yield {"role": "system", "content": "You are a careful engineer. Answer briefly. " * 24}
    for turn in range(4):
        yield {"role": "user", "content": f"Question {turn}: what does this function do?"}
        yield {"role": "assistant", "content": "It reads the file and counts its lines. " * 2}
    yield {"role": "user", "content": "And what would you change in it?"}


MESSAGES = list(_conversation())
