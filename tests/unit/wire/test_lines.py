from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.wire import rpc
from runner.wire.lines import MAX_LINE, LineReader

LIMIT = 40
# Mostly what breaks line readers: ends of line, blanks, JSON's own characters, half UTF-8.
streams = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from([b"\n", b"\r\n", b"\n\n", b" ", b"\t", b"\xc3", b"\xff", b"\x00"]),
        st.sampled_from(
            [b'{"jsonrpc":"2.0","method":"x"}\n', b'{"jsonrpc":"2.0","id":1}\n', b"[]"]
        ),
    ),
    max_size=20,
).map(b"".join)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


def read_all(parts: list[bytes], limit: int) -> tuple[list[bytes], int | str]:
    """The lines, and then the bytes left over or the code of the error."""
    reader = LineReader(limit)
    lines: list[bytes] = []
    try:
        for part in parts:
            lines += reader.feed(part)
    except ProtocolError as e:
        return lines, e.code
    return lines, reader.pending


@given(streams, st.lists(st.integers(min_value=0), max_size=8))
def test_any_split_of_any_stream_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    assert read_all(pieces(data, cuts), 10_000) == read_all([data], 10_000)


@given(streams, st.lists(st.integers(min_value=0), max_size=8))
def test_a_line_over_the_limit_is_refused_wherever_the_stream_is_split(
    data: bytes, cuts: list[int]
) -> None:
    too_long = any(len(line) > LIMIT for line in data.split(b"\n"))
    for parts in (pieces(data, cuts), [data], [data[i : i + 1] for i in range(len(data))]):
        end = read_all(parts, LIMIT)[1]
        assert (end == "protocol_line_too_long") == too_long


@given(streams, st.lists(st.integers(min_value=0), max_size=8))
def test_any_stream_is_frames_or_a_protocol_error(data: bytes, cuts: list[int]) -> None:
    for line in read_all(pieces(data, cuts), 10_000)[0]:
        try:
            frame = rpc.decode(line)
        except ProtocolError as e:
            assert e.code == "protocol_bad_frame"  # noqa: PT017  (both ways are right)
        else:
            assert isinstance(frame, rpc.Request | rpc.Notification | rpc.Response)


@given(st.binary().filter(lambda b: b"\n" not in b))
def test_a_line_comes_out_as_it_went_in_without_blanks_around_it(line: bytes) -> None:
    expected = line.strip(b" \t\r")
    assert LineReader().feed(line + b"\n") == ([expected] if expected else [])


def test_a_line_of_exactly_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert LineReader(LIMIT).feed(b"x" * LIMIT + b"\n") == [b"x" * LIMIT]
    with pytest.raises(ProtocolError) as caught:
        LineReader(LIMIT).feed(b"x" * (LIMIT + 1))
    assert caught.value.code == "protocol_line_too_long"


def test_the_limit_is_4_mib() -> None:
    assert MAX_LINE == 4 * 1024 * 1024


def test_single_bytes_cost_no_more_memory_than_the_line() -> None:
    reader = LineReader(100_000)
    for _ in range(50_000):
        reader.feed(b"x")
    assert reader.pending == 50_000
    held = sum(sys.getsizeof(v) for v in vars(reader).values())
    assert held < 100_000
