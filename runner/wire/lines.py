"""Bytes in, lines out, with a limit. No I/O, no clock.

https://agentclientprotocol.com/protocol/transports : messages are delimited by newlines and must
not contain embedded newlines.
"""

from __future__ import annotations

from runner.errors import ProtocolError

MAX_LINE = 4 * 1024 * 1024


class LineReader:
    """Collects bytes in any split and returns whole lines without their end.

    Blank lines are skipped. Memory is bounded by ``limit`` plus one read.

    Raises (from :meth:`feed`):
        ProtocolError: a line is longer than ``limit`` bytes. The reader is spent afterwards.
    """

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        lines: list[bytes] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._hold(data[start:end])
            line = b"".join(self._parts).strip(b" \t\r")
            self._parts.clear()
            self._size = 0
            if line:
                lines.append(line)
            start = end + 1
        if start < len(data):
            self._hold(data[start:] if start else data)
        return lines

    @property
    def pending(self) -> int:
        """Bytes of the unfinished line."""
        return self._size

    def _hold(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            self._parts.clear()
            raise ProtocolError(
                f"a line of more than {self._limit} bytes", code="protocol_line_too_long"
            )
        if part:
            self._parts.append(part)
