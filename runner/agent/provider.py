"""Asks the model: one request, its retries, one complete reply."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runner import __version__
from runner.agent import request
from runner.agent.chat import Reply
from runner.agent.completion import Completion, Delta
from runner.agent.failures import (
    GiveUp,
    ModelFailure,
    Retry,
    classify_error,
    decide_retry,
    parse_retry_after,
)
from runner.agent.notes import note
from runner.settings.container import ContainerSettings, read_token

if TYPE_CHECKING:
    from runner.agent.transport import Response, Transport

# After [DONE] the end of the body is a few bytes away; waiting for it saves the connection.
TAIL_WAIT = 1.0


class Listener(Protocol):
    """Hears an answer while it comes."""

    async def heard(self, delta: Delta) -> None: ...

    async def lost(self) -> None:
        """What was heard of this answer is void: it broke off and is asked for again."""
        ...


class Model:
    """The configured model. Errors of :meth:`ask`: :class:`ModelFailure`, and
    :class:`~runner.errors.LoginRequiredError` when there is no token to send.
    """

    def __init__(self, settings: ContainerSettings, run_dir: Path) -> None:
        self._settings = settings
        self._socket = run_dir / settings.model_socket if settings.model_socket else None
        self._transport: asyncio.Task[Transport] | None = None

    def warm(self) -> None:
        """Begin to import and build what the first request needs: until then the time is free."""
        if self._transport is None:
            self._transport = asyncio.create_task(asyncio.to_thread(self._build), name="warm")

    def _build(self) -> Transport:
        from runner.agent.transport import Deadlines, Transport

        return Transport(self._settings.base_url, self._socket, Deadlines())

    async def ask(self, body: bytes, listener: Listener) -> Reply:
        """One answer to ``body``, retried as ``[loop_control]`` and the failures allow.

        The token file is read for each try; a refusal of the token costs one more read and try,
        because the host may have put a new one there in between.
        """
        attempt, reread = 0, False
        while True:
            try:
                return await self._once(body, listener)
            except ModelFailure as failure:
                await listener.lost()
                if failure.code == "login_required" and not reread:
                    reread = True
                    continue
                match decide_retry(
                    failure,
                    attempt,
                    self._settings.loop.max_retries_per_step,
                    jitter=os.urandom(1)[0] / 255,
                ):
                    case GiveUp():
                        raise
                    case Retry(wait):
                        note("model.retry", attempt=attempt + 1, wait=wait, why=failure.message)
                        await asyncio.sleep(wait)
                        attempt += 1

    async def _once(self, body: bytes, listener: Listener) -> Reply:
        self.warm()
        assert self._transport is not None
        transport = await asyncio.shield(self._transport)
        token = read_token(self._settings.credential_file)
        headers = request.headers(token, __version__, self._settings.custom_headers)
        async with transport.post("/chat/completions", headers, body) as response:
            if response.status != 200:
                raise classify_error(
                    response.status,
                    await response.body(),
                    parse_retry_after(response.header("retry-after")),
                )
            return await _collect(response, listener.heard)


async def _collect(response: Response, heard: Callable[[Delta], Awaitable[None]]) -> Reply:
    completion = Completion()
    chunks = response.chunks()
    async for data in chunks:
        delta = completion.feed(data)
        if delta.text or delta.reasoning:
            await heard(delta)
        if completion.done:
            break
    reply = completion.reply()
    try:
        async with asyncio.timeout(TAIL_WAIT):
            async for _ in chunks:
                pass
    except (TimeoutError, ModelFailure):
        pass  # the answer is whole; only the connection is lost
    return reply
