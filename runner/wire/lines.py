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
        self._line = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        lines: list[bytes] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._hold(data[start:end])
            if line := bytes(self._line).strip(b" \t\r"):
                lines.append(line)
            self._line.clear()
            start = end + 1
        self._hold(data[start:])
        return lines

    @property
    def pending(self) -> int:
        """Bytes of the unfinished line."""
        return len(self._line)

    def _hold(self, part: bytes) -> None:
        # One buffer, not a list of parts: a peer that sends single bytes would fill memory with
        # objects long before the line is too long.
        if len(self._line) + len(part) > self._limit:
            self._line.clear()
            raise ProtocolError(
                f"a line of more than {self._limit} bytes", code="protocol_line_too_long"
            )
        self._line += part
