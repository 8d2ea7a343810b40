"""Server-sent events: bytes in any split to events, and events to bytes. No I/O, no clock.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import msgspec

from runner.errors import ProtocolError

MAX_EVENT = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class Event(msgspec.Struct, frozen=True):
    """``event`` is empty for the default kind; ``id`` is the last one the stream has named."""

    data: bytes
    event: str = ""
    id: str = ""


class EventReader:
    """Collects bytes in any split and returns whole events.

    Comments, ``retry`` and unknown fields are skipped, as is an event without data; one that is
    not yet whole when the stream ends is never returned. Memory is bounded by ``limit`` (bytes of
    one event) plus one read.

    Raises (from :meth:`feed`):
        ProtocolError: an event is longer than ``limit``. The reader is spent afterwards.
    """

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._line = bytearray()
        self._begun = False
        self._after_cr = False
        self._data: list[bytes] = []
        self._size = 0
        self._event = ""
        self._id = ""

    def feed(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        *ends, rest = self._newlines(data).split(b"\n")
        for end in ends:
            line = end
            if self._line:
                line = bytes(self._line + end)
                self._line.clear()
            self._hold(len(line))
            if line:
                self._field(line)
            elif (event := self._dispatch()) is not None:
                events.append(event)
        self._line += rest
        self._hold(len(self._line))
        return events

    def _newlines(self, data: bytes) -> bytes:
        """The bytes with every end of line (CR, LF, CRLF, also across reads) as LF."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _hold(self, size: int) -> None:
        if self._size + size > self._limit:
            self._line.clear()
            self._data.clear()
            raise ProtocolError(
                f"an event of more than {self._limit} bytes", code="protocol_event_too_long"
            )

    def _field(self, line: bytes) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")

    def _dispatch(self) -> Event | None:
        self._begun = True
        event = Event(b"\n".join(self._data), self._event, self._id) if self._data else None
        self._data.clear()
        self._size = 0
        self._event = ""
        return event


def encode(data: bytes, event: str = "", id: str = "") -> bytes:  # noqa: A002 - the field's name
    """One event as bytes. ``event`` and ``id`` are ours, so they hold no ends of line."""
    head = (f"id: {id}\n" if id else "") + (f"event: {event}\n" if event else "")
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"%sdata: %s\n\n" % (head.encode(), lines)
