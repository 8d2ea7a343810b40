"""What a call is made of: one attempt, what became of it, and what the client gets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from runner.gateway.failure import GatewayFailure, Verdict
from runner.gateway.opening import Answer
from runner.gateway.targets import Target

CLOSE_DEADLINE = 5.0


class Clock(Protocol):
    """``now`` is Unix seconds, ``monotonic`` seconds of a clock that nobody sets."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Ask:
    """One attempt. ``renew``: the login's token was just refused, so get another one first."""

    target: Target
    number: int
    renew: bool = False


Send = Callable[[Ask], Awaitable[Answer]]
"""Asks a provider; returns when its status and headers are there.

May raise ``OSError``, ``httpx.HTTPError`` or a :class:`~runner.errors.NanokimiError`; anything else
is a mistake of ours and is not caught.
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What happened at one candidate; ``reason`` is empty for the one that answered."""

    target: Target
    level: int
    reason: str = ""
    status: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """Of ``[gateway]``: ``deadline`` is seconds over all attempts, until the first byte."""

    max_retries: int = 3
    backoff_factor: float = 2.0
    deadline: float = 600.0


@dataclass(slots=True)
class Opened:
    """An answer that has begun. Use as ``async with``: leaving it ends the upstream's work."""

    target: Target
    answer: Answer
    attempts: tuple[Attempt, ...]
    fallback: bool
    _first: bytes = field(repr=False)

    async def body(self) -> AsyncIterator[bytes]:
        """The whole body, the first bytes included. Once.

        Raises:
            httpx.HTTPError, OSError: it broke off. There is no fallback any more.
        """
        yield self._first
        async for chunk in self.answer.body:
            yield chunk

    @property
    def headers(self) -> dict[str, str]:
        """What tells a client who answered."""
        return {
            "x-nanokimi-provider": self.target.provider,
            "x-nanokimi-model": self.target.model,
            "x-nanokimi-fallback": "true" if self.fallback else "false",
            "x-nanokimi-attempts": str(len(self.attempts)),
        }

    async def aclose(self) -> None:
        await close(self.answer)

    async def __aenter__(self) -> Opened:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody answered. ``verdict`` is of the failure that is passed on, if a provider gave it."""

    failure: GatewayFailure
    attempts: tuple[Attempt, ...] = ()
    verdict: Verdict | None = None

    @property
    def headers(self) -> dict[str, str]:
        """As of :class:`Opened`, for the last one that was tried."""
        found = {"x-nanokimi-attempts": str(len(self.attempts))}
        if self.attempts:
            last = self.attempts[-1]
            found |= {
                "x-nanokimi-provider": last.target.provider,
                "x-nanokimi-model": last.target.model,
                "x-nanokimi-fallback": "true" if last.level else "false",
            }
        return found


async def close(answer: Answer) -> None:
    """End the upstream's work, without waiting long for it to notice."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_DEADLINE):
            await answer.close()
