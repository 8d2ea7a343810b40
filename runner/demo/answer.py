"""An HTTP answer that can be spoiled by a fault on its way out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runner.demo.faults import Fault

MAX_STALL = 120.0


class Answer(Response):
    """Sends ``chunks`` one by one, with ``pause`` seconds before each, as the fault allows.

    A client that leaves is noticed at the next chunk and while stalling.
    """

    def __init__(
        self,
        chunks: Iterable[bytes],
        *,
        status: int = 200,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        pause: float = 0.0,
        fault: Fault | None = None,
    ) -> None:
        super().__init__(status_code=status, media_type=content_type, headers=headers)
        del self.headers["content-length"]  # the answer may end early: it is sent in chunks
        self._chunks = chunks
        self._pause = pause
        self._fault = fault or Fault()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._fault
        if fault.delay:
            await asyncio.sleep(fault.delay)
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        gone = asyncio.create_task(_gone(receive), name="watch for the client leaving")
        try:
            for sent, chunk in enumerate(self._chunks):
                if sent == fault.cut_after or gone.done():
                    return  # the server breaks a connection whose answer was not finished
                if sent == fault.stall_after:
                    await asyncio.wait((gone,), timeout=MAX_STALL)
                    return
                if sent == fault.end_after:
                    break
                if self._pause:
                    await asyncio.wait((gone,), timeout=self._pause)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def json_answer(value: object, *, status: int = 200, fault: Fault | None = None) -> Response:
    """A JSON body; in two chunks when there is a fault, so that it can break in the middle."""
    return body_answer(msgspec.json.encode(value), status=status, fault=fault)


def body_answer(
    body: bytes,
    *,
    status: int = 200,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
    fault: Fault | None = None,
) -> Response:
    """A whole body, like :func:`json_answer`."""
    if fault is None:
        return Response(
            body, status_code=status, media_type=content_type, headers=dict(headers or {})
        )
    half = len(body) // 2
    return Answer(
        (body[:half], body[half:]),
        status=status,
        content_type=content_type,
        headers=headers,
        fault=fault,
    )


def fault_answer(fault: Fault) -> Response:
    """The answer of a fault that stands in for the real one, in the shape of its API."""
    error: object = {"message": fault.message, "type": fault.type}
    shape = {"error": error}
    if fault.endpoint in ("token", "device"):
        shape = {"error": fault.type, "error_description": fault.message}
    return body_answer(
        msgspec.json.encode(shape) if fault.body is None else fault.body,
        status=fault.status or 200,
        content_type="application/json" if fault.body is None else fault.content_type,
        headers=fault.headers,
        fault=fault,
    )
