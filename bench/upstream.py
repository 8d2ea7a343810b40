"""A model service that costs next to nothing, so that what stands before it can be measured.

Chat completions, streamed and not, in a process of its own; it prints its base URL as one line.
``/fast/v1`` answers at once. ``/paced/v1`` takes a model's time: a chunk every 20 ms after the
first, a whole answer after 250 ms. Each chunk is a write of its own, as from a real service::

    python -m bench.upstream
"""

from __future__ import annotations

import asyncio
import json
import signal
from typing import cast

import httptools
import uvloop

CHUNKS = 64
CHUNK_EVERY = 0.02
WHOLE_AFTER = 0.25
WORD = "token "
USAGE = {"prompt_tokens": 400, "completion_tokens": CHUNKS, "total_tokens": 400 + CHUNKS}
HEAD = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": "kimi-for-coding"}


def _whole() -> bytes:
    message = {"role": "assistant", "content": WORD * CHUNKS}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    text = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(text)}"
    return head.encode() + b"\r\n\r\n" + text


def _stream() -> list[bytes]:
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": WORD}, None)] * CHUNKS
    deltas[0] = ({"role": "assistant", "content": WORD}, None)
    deltas.append(({}, "stop"))
    chunks: list[object] = []
    for delta, finish in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunks.append({**HEAD, "object": "chat.completion.chunk", "choices": [choice]})
    chunks.append({**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    events = [b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks]
    events.append(b"data: [DONE]\n\n")
    writes = [b"%x\r\n%s\r\n" % (len(e), e) for e in events]
    writes[0] = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        b"transfer-encoding: chunked\r\n\r\n" + writes[0]
    )
    writes[-1] += b"0\r\n\r\n"
    return writes


WHOLE, STREAM = _whole(), _stream()


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._to = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._to.close()

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        paced = self._url.startswith(b"/paced/")
        if json.loads(self._body).get("stream") is True:
            self._next(0, paced)
        elif paced:
            self._loop.call_later(WHOLE_AFTER, self._write, WHOLE)
        else:
            self._write(WHOLE)

    def _next(self, at: int, paced: bool) -> None:
        self._write(STREAM[at])
        at += 1
        if at == len(STREAM) or self._to.is_closing():
            return
        if paced and at < CHUNKS:
            self._loop.call_later(CHUNK_EVERY, self._next, at, paced)
        else:
            self._loop.call_soon(self._next, at, paced)

    def _write(self, data: bytes) -> None:
        if not self._to.is_closing():
            self._to.write(data)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await told.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve())
