from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.wire.sse import Event, EventReader, encode

LIMIT = 60
# Mostly what breaks readers of events: ends of line, colons, blanks, half UTF-8.
streams = st.lists(
    st.one_of(
        st.binary(max_size=8),
        st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b": ", b"\xef\xbb\xbf", b"\xc3"]),
        st.sampled_from([b"data: x\n", b"data:y\r\n\r\n", b"event: e\r", b"id: 7\n", b"data\n\n"]),
    ),
    max_size=20,
).map(b"".join)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


def read_all(parts: list[bytes], limit: int = 10_000) -> list[Event]:
    reader = EventReader(limit)
    return [event for part in parts for event in reader.feed(part)]


def by_the_book(data: bytes) -> list[Event]:
    """The standard's parsing, over the whole stream at once."""
    *lines, _rest = re.split(rb"\r\n|\r|\n", data.removeprefix(b"\xef\xbb\xbf"))
    events, said, kind, id_ = [], [], "", ""
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if said:
                events.append(Event(b"\n".join(said), kind, id_))
            said, kind = [], ""
        elif name == b"data":
            said.append(value)
        elif name == b"event":
            kind = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            id_ = value.decode("utf-8", "replace")
    return events


@settings(deadline=None)
@given(streams, st.lists(st.integers(0, 10_000), max_size=10))
def test_any_split_gives_the_events_of_the_standard(data: bytes, cuts: list[int]) -> None:
    # A carriage return at the very end may yet be half of an end of line.
    data += b"."
    assert read_all(pieces(data, cuts)) == by_the_book(data)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=5))
def test_what_is_encoded_is_read_again(datas: list[bytes]) -> None:
    out = b"".join(encode(data, event="delta", id=str(i)) for i, data in enumerate(datas))
    expected = [re.sub(rb"\r\n|\r", b"\n", data) for data in datas]
    assert read_all([out]) == [Event(d, "delta", str(i)) for i, d in enumerate(expected)]


def test_comments_and_unknown_fields_are_skipped() -> None:
    stream = b": hello\n\nretry: 3\nfoo: bar\ndata: [DONE]\n\n"
    assert read_all([stream]) == [Event(b"[DONE]")]


def test_an_event_that_is_not_whole_at_the_end_is_not_an_event() -> None:
    assert read_all([b"data: 1\n\ndata: 2\n"]) == [Event(b"1")]


@pytest.mark.parametrize("piece", [b"x", b"x" * 7, b"data: xxxx\n", b"data\n"])
def test_an_event_without_end_is_refused_before_memory_fills(piece: bytes) -> None:
    reader = EventReader(LIMIT)
    with pytest.raises(ProtocolError) as refusal:
        for _ in range(LIMIT + 2):
            reader.feed(piece)
    assert refusal.value.code == "protocol_event_too_long"


def test_events_within_the_limit_never_add_up() -> None:
    assert len(read_all([b"data: " + b"x" * 40 + b"\n\n"] * 100, LIMIT)) == 100
