from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.wire import rpc

json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=10,
)
ids = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text())


def content(raw: msgspec.Raw | None) -> object:
    assert raw is not None
    return json.loads(bytes(raw))


@given(ids, st.text(), st.dictionaries(st.text(), json_values))
def test_requests_survive_the_wire(id_: rpc.Id, method: str, params: dict[str, object]) -> None:
    line = rpc.encode_request(id_, method, params)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    got = rpc.decode(line.rstrip())
    assert isinstance(got, rpc.Request)
    assert (got.id, got.method, content(got.params)) == (id_, method, params)


@given(st.text(), st.dictionaries(st.text(), json_values))
def test_notifications_survive_the_wire(method: str, params: dict[str, object]) -> None:
    got = rpc.decode(rpc.encode_notification(method, params).rstrip())
    assert isinstance(got, rpc.Notification)
    assert (got.method, content(got.params)) == (method, params)


@given(ids, json_values)
def test_results_survive_the_wire(id_: rpc.Id, result: object) -> None:
    got = rpc.decode(rpc.encode_result(id_, result).rstrip())
    assert isinstance(got, rpc.Response)
    assert (got.id, content(got.result), got.error) == (id_, result, None)


@given(ids, st.integers(-(2**31), 2**31), st.text(), json_values)
def test_errors_survive_the_wire(id_: rpc.Id, code: int, message: str, data: object) -> None:
    got = rpc.decode(rpc.encode_error(id_, rpc.RpcError(code, message, data)).rstrip())
    assert isinstance(got, rpc.Response)
    assert got.id == id_
    assert got.error == rpc.RpcError(code, message, data)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"null",
        b"3",
        b"[]",
        b'[{"jsonrpc":"2.0","method":"x"}]',
        b"{}",
        b'{"method":"x"}',
        b'{"jsonrpc":"1.0","method":"x"}',
        b'{"jsonrpc":2.0,"method":"x"}',
        b'{"jsonrpc":"2.0"}',
        b'{"jsonrpc":"2.0","method":3}',
        b'{"jsonrpc":"2.0","method":null}',
        b'{"jsonrpc":"2.0","id":null,"method":"x"}',
        b'{"jsonrpc":"2.0","id":1.5,"method":"x"}',
        b'{"jsonrpc":"2.0","id":true,"method":"x"}',
        b'{"jsonrpc":"2.0","id":{},"method":"x"}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","result":{}}',
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse"}}',
        b'{"jsonrpc":"2.0","id":1,"error":"no"}',
        b'{"jsonrpc":"2.0","id":1,"error":{"message":"no code"}}',
        b'{"jsonrpc":"2.0","method":"x","params":{"a":"\xff"}}',
        b'{"jsonrpc":"2.0","method":"\xc3"}',
        b'{"jsonrpc":"2.0","method":"x","params":{"a":"\\q"}}',
        b'{"jsonrpc":"2.0","method":"x","params":"\\ud800"}',
        b'{"jsonrpc":"2.0","method":"x","params":NaN}',
        b'{"jsonrpc":"2.0","method":"x"} trailing',
        b'{"jsonrpc":"2.0","method":"x"}{"jsonrpc":"2.0","method":"y"}',
        b"\xef\xbb\xbf" + b'{"jsonrpc":"2.0","method":"x"}',
        b'{"jsonrpc":"2.0","method":"x","params":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ],
)
def test_a_line_that_is_no_frame_is_a_protocol_error_with_a_short_excerpt(line: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        rpc.decode(line)
    assert caught.value.code == "protocol_bad_frame"
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("params", [b"", b',"params":null', b',"params":{}'])
def test_missing_params_are_an_empty_object(params: bytes) -> None:
    got = rpc.decode(b'{"jsonrpc":"2.0","method":"x"' + params + b"}")
    assert isinstance(got, rpc.Notification)
    assert bytes(got.params) == b"{}"


def test_a_null_result_is_a_result_and_a_null_error_is_none() -> None:
    got = rpc.decode(b'{"jsonrpc":"2.0","id":"a","result":null,"error":null}')
    assert isinstance(got, rpc.Response)
    assert (bytes(got.result or b""), got.error) == (b"null", None)


def test_unknown_members_are_ignored() -> None:
    got = rpc.decode(b'{"jsonrpc":"2.0","method":"x","trace":{"id":1}}')
    assert isinstance(got, rpc.Notification)
