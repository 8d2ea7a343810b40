"""Docker's stream frames, in any split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.sandbox.frames import STDERR, STDOUT, Demultiplexer

payloads = st.lists(
    st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=300)), max_size=12
)


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def pieces_of(demux: Demultiplexer, chunks: list[bytes]) -> dict[int, bytes]:
    out = {STDOUT: b"", STDERR: b""}
    for chunk in chunks:
        for stream, data in demux.feed(chunk):
            out[stream] += data
    return out


@given(payloads, st.data())
def test_any_split_gives_the_same_streams(frames: list[tuple[int, bytes]], data: st.DataObject):
    raw = b"".join(frame(s, d) for s, d in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=20)))
    chunks = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    got = pieces_of(Demultiplexer(), chunks)
    for stream in (STDOUT, STDERR):
        assert got[stream] == b"".join(d for s, d in frames if s == stream)


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_junk_is_refused_or_taken_but_never_breaks(junk: bytes, step: int):
    demux = Demultiplexer()
    try:
        got = [p for i in range(0, len(junk), step) for p in demux.feed(junk[i : i + step])]
    except ProtocolError:
        return
    assert sum(len(p.data) for p in got) <= len(junk)


def test_bytes_of_a_frame_come_before_its_end():
    demux = Demultiplexer()
    assert demux.feed(frame(STDOUT, b"abcdef")[:11]) == [(STDOUT, b"abc")]
    assert demux.feed(b"def") == [(STDOUT, b"def")]


@pytest.mark.parametrize("header", [b"\x04\0\0\0\0\0\0\1", b"\1\0\1\0\0\0\0\1", b"HTTP/1.1"])
def test_what_is_no_header_is_an_error(header: bytes):
    with pytest.raises(ProtocolError):
        Demultiplexer().feed(header)
