"""Lines to JSON-RPC 2.0 frames and back. No I/O.

https://www.jsonrpc.org/specification ; batches are not part of ACP and are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from runner.errors import ProtocolError

Id = int | str

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603


class RpcError(msgspec.Struct, frozen=True, omit_defaults=True):
    """The ``error`` member of a response."""

    code: int
    message: str
    data: Any = None


class RemoteError(Exception):
    """The peer answered a request with an error."""

    def __init__(self, error: RpcError) -> None:
        super().__init__(f"{error.message} ({error.code})")
        self.error = error


@dataclass(frozen=True, slots=True)
class Request:
    id: Id
    method: str
    params: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Notification:
    method: str
    params: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Response:
    id: Id
    result: msgspec.Raw | None = None
    error: RpcError | None = None


Frame = Request | Notification | Response

_EMPTY = msgspec.Raw(b"{}")


class _Line(msgspec.Struct):
    jsonrpc: str
    id: Id | msgspec.UnsetType | None = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: RpcError | None = None


_decoder = msgspec.json.Decoder(_Line)
_encoder = msgspec.json.Encoder()


def decode(line: bytes) -> Frame:
    """One line to one frame. ``params`` or ``error`` that are null count as left out.

    Raises:
        ProtocolError: not UTF-8, not JSON, not a JSON-RPC 2.0 request, notification or response.
    """
    try:
        got = _decoder.decode(line)
        line.decode("utf-8")  # params and result stay raw: their bytes are checked here
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ProtocolError(
            f"a line that is not JSON-RPC: {e} in {line[:120]!r}", code="protocol_bad_frame"
        ) from None
    if got.jsonrpc != "2.0":
        raise ProtocolError(
            f'"jsonrpc" is {got.jsonrpc[:20]!r}, not "2.0"', code="protocol_bad_frame"
        )
    if not isinstance(got.method, msgspec.UnsetType):
        params = _EMPTY if bytes(got.params) in (b"", b"null") else got.params
        if isinstance(got.id, msgspec.UnsetType):
            return Notification(got.method, params)
        if got.id is None:
            raise ProtocolError("a request with a null id", code="protocol_bad_frame")
        return Request(got.id, got.method, params)
    if isinstance(got.id, msgspec.UnsetType) or got.id is None:
        detail = "" if got.error is None else f": {got.error.message[:200]}"
        raise ProtocolError(
            f"a response without the id of a request{detail}", code="protocol_bad_frame"
        )
    if got.error is not None:
        return Response(got.id, error=got.error)
    if not bytes(got.result):
        raise ProtocolError("a response with neither result nor error", code="protocol_bad_frame")
    return Response(got.id, result=got.result)


def encode_request(id_: Id, method: str, params: object) -> bytes:
    return _line({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})


def encode_notification(method: str, params: object) -> bytes:
    return _line({"jsonrpc": "2.0", "method": method, "params": params})


def encode_result(id_: Id, result: object) -> bytes:
    return _line({"jsonrpc": "2.0", "id": id_, "result": result})


def encode_error(id_: Id | None, error: RpcError) -> bytes:
    return _line({"jsonrpc": "2.0", "id": id_, "error": error})


def _line(frame: object) -> bytes:
    return _encoder.encode(frame) + b"\n"
