"""The frames in which Docker multiplexes stdout and stderr over one connection. No I/O.

``[stream, 0, 0, 0, size as big-endian uint32]`` and then ``size`` bytes:
https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
"""

from __future__ import annotations

from typing import NamedTuple

from runner.errors import ProtocolError

STDIN, STDOUT, STDERR, SYSTEM_ERROR = range(4)
_HEADER = 8


class Piece(NamedTuple):
    """Bytes of one stream; a frame may come as several pieces."""

    stream: int
    data: bytes


class Demultiplexer:
    """Takes bytes in any split and gives them back by stream. Holds at most one header."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = STDOUT
        self._left = 0

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces in ``data``, in order.

        Raises:
            ProtocolError: what should be a header is none; the connection is worthless then.
        """
        pieces: list[Piece] = []
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(Piece(self._stream, piece))
                self._left -= len(piece)
                at += len(piece)
                continue
            part = data[at : at + _HEADER - len(self._header)]
            self._header += part
            at += len(part)
            if len(self._header) == _HEADER:
                self._open_frame()
        return pieces

    def _open_frame(self) -> None:
        stream = self._header[0]
        if stream > SYSTEM_ERROR or any(self._header[1:4]):
            raise ProtocolError(
                f"the engine sent a broken frame header: {bytes(self._header).hex()}",
                hint="the container may have a terminal; recreate it",
                code="engine_bad_frame",
            )
        self._stream = stream
        self._left = int.from_bytes(self._header[4:8], "big")
        self._header.clear()
