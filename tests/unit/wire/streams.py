"""Two ends of an in-memory pair of byte streams: bounded, and splitting bytes as it likes."""

from __future__ import annotations

import asyncio

from runner.errors import SandboxGoneError

PATIENCE = 30.0


class MemoryChannel:
    """One end. What is written here is read at :attr:`other`, in pieces of ``split`` bytes."""

    def __init__(self, split: int = 0) -> None:
        self.other: MemoryChannel
        self.gate = asyncio.Event()  # closed: writes stall, as with a peer that does not read
        self.gate.set()
        self._split = split
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1000)
        self._closed = False

    async def read(self) -> bytes:
        return await self._inbox.get()

    async def write(self, data: bytes) -> None:
        if self._closed or self.other._closed:
            raise SandboxGoneError("the stream is closed")
        step = self._split or len(data)
        for start in range(0, len(data), step):
            await self.gate.wait()
            await self.other._inbox.put(data[start : start + step])

    async def send_raw(self, *lines: bytes) -> None:
        """What no well-behaved peer would send."""
        await self.write(b"".join(line + b"\n" for line in lines))

    async def close(self) -> None:
        """End of stream for the other side."""
        self._closed = True
        await self.other._inbox.put(b"")


def pair(split: int = 0) -> tuple[MemoryChannel, MemoryChannel]:
    left, right = MemoryChannel(split), MemoryChannel(split)
    left.other, right.other = right, left
    return left, right
