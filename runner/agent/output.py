"""The head and the tail of an output of any length, in bounded memory."""

from __future__ import annotations


class HeadTail:
    """Keeps about ``limit`` characters: the first half and the last half. Bytes come in."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._room = self._half * 4  # a character has at most four bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0
        self._closed = False

    def feed(self, data: bytes) -> None:
        if self._closed:
            return
        taken = data[: self._room - len(self._head)]
        self._head += taken
        self._tail += data[len(taken) :]
        if len(self._tail) > 2 * self._room:
            extra = len(self._tail) - self._room
            self._dropped += extra
            del self._tail[:extra]

    def close(self) -> None:
        """Take nothing more."""
        self._closed = True

    def text(self) -> str:
        """What was kept; a line in the middle says how much is missing."""
        if not self._dropped:
            whole = (self._head + self._tail).decode("utf-8", "replace")
            if len(whole) <= 2 * self._half:
                return whole
            missing = len(whole) - 2 * self._half
            return _join(whole[: self._half], f"{missing} characters", whole[-self._half :])
        head = self._head.decode("utf-8", "replace")
        tail = self._tail.decode("utf-8", "replace")
        missing = (
            self._dropped
            + len(head[self._half :].encode("utf-8", "replace"))
            + len(tail[: -self._half].encode("utf-8", "replace"))
        )
        return _join(head[: self._half], f"{missing} bytes", tail[-self._half :])


def _join(head: str, missing: str, tail: str) -> str:
    return f"{head}\n[... {missing} left out ...]\n{tail}"
