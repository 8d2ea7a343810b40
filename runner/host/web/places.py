"""Places that all groups share, and of which none has all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Own:
    places: asyncio.Semaphore
    users: int = field(default=0)


class Places:
    """``total`` at one time, ``each`` of them for one group; who comes first is served first."""

    def __init__(self, total: int, each: int) -> None:
        self._all = asyncio.Semaphore(total)
        self._each = each
        self._own: dict[str, _Own] = {}

    @asynccontextmanager
    async def taken(self, group: str) -> AsyncIterator[None]:
        """Have a place inside the block."""
        own = self._own.setdefault(group, _Own(asyncio.Semaphore(self._each)))
        own.users += 1
        try:
            async with own.places, self._all:
                yield
        finally:
            own.users -= 1
            if not own.users:
                del self._own[group]
