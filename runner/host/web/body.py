"""A response's body with a bound on what it unpacks to."""

from __future__ import annotations

import zlib

import httpx

from runner.errors import NanokimiError, PermanentError

ACCEPTED = "gzip"
_AUTO_DETECT = 32 + zlib.MAX_WBITS
_PACKED = ("gzip", "x-gzip", "deflate")


class Inflater:
    """Unpacks gzip or zlib piece by piece; never makes more than ``limit`` bytes in all.

    ``deflate`` is the zlib format, as its standard says.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._stream = zlib.decompressobj(_AUTO_DETECT)

    def feed(self, packed: bytes) -> bytes:
        """Raises: zlib.error, OverflowError when there is more than the limit."""
        made = bytearray()
        while packed:
            # One byte more than is allowed, to see that there is more.
            made += self._stream.decompress(packed, self._left - len(made) + 1)
            if len(made) > self._left:
                raise OverflowError
            packed = self._stream.unused_data if self._stream.eof else b""
            if packed:  # a gzip file may be several, one after the other
                self._stream = zlib.decompressobj(_AUTO_DETECT)
        self._left -= len(made)
        return bytes(made)


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """The whole body, unpacked.

    Raises:
        PermanentError: ``page_too_large``, or ``page_unreadable`` when it is packed otherwise.
        httpx.HTTPError: the connection broke.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    inflater = Inflater(limit) if coding in _PACKED else None
    if coding not in ("", "identity") and inflater is None:
        raise PermanentError(
            f'the page is packed as "{coding[:40]}", which was not asked for',
            hint="try another page",
            code="page_unreadable",
        )
    body = bytearray()
    try:
        async for piece in response.aiter_raw():
            body += inflater.feed(piece) if inflater is not None else piece
            if len(body) > limit:
                raise OverflowError
    except OverflowError:
        raise _too_large(limit) from None
    except zlib.error:
        raise PermanentError(
            "the page is packed, and cannot be unpacked",
            hint="try another page",
            code="page_unreadable",
        ) from None
    return bytes(body)


def _too_large(limit: int) -> NanokimiError:
    return PermanentError(
        f"the page is larger than {limit} bytes",
        hint="look for a smaller page, or for a part of it",
        code="page_too_large",
    )
