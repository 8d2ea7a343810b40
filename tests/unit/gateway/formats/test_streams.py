"""A stream says what the whole answer says, in the order its API promises, or that it broke."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.gateway.failure import GatewayFailure
from runner.gateway.formats import Json
from runner.gateway.formats.anthropic_response import to_anthropic
from runner.gateway.formats.anthropic_stream import ChatToAnthropicStream
from runner.gateway.formats.chat_response import to_chat_response
from runner.gateway.formats.chat_stream import AnthropicToChatStream
from runner.gateway.formats.streams import ByteStream
from runner.wire import sse

from .strategies import chunked, properties


def to_events(chunks: list[Json], **options: Any) -> list[Json]:
    stream = ChatToAnthropicStream(model="kimi", **options)
    return [e for c in chunks for e in stream.feed(c)] + stream.end()


def to_chunks(events: list[Json]) -> list[Json]:
    stream = AnthropicToChatStream(model="kimi", created=1_700_000_000, include_usage=True)
    return [c for e in events for c in stream.feed(e)] + stream.end()


def message_of(events: list[Json]) -> Json:
    """Puts a message together as strictly as the API describes its stream."""
    kinds = [e["type"] for e in events]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    message: Json = json.loads(json.dumps(events[0]["message"]))
    blocks: list[Json] = message["content"]
    arguments: dict[int, str] = {}
    is_open = False
    for event in events[2:-2]:
        match event:
            case {"type": "content_block_start", "content_block": block}:
                assert not is_open
                assert event["index"] == len(blocks)
                blocks.append(dict(block))
                is_open = True
            case {"type": "content_block_delta", "delta": delta}:
                assert is_open
                assert event["index"] == len(blocks) - 1
                match delta:
                    case {"type": "text_delta", "text": piece}:
                        blocks[-1]["text"] += piece
                    case {"type": "thinking_delta", "thinking": piece}:
                        blocks[-1]["thinking"] += piece
                    case {"type": "signature_delta", "signature": signature}:
                        blocks[-1]["signature"] = signature
                    case {"type": "input_json_delta", "partial_json": piece}:
                        index = event["index"]
                        arguments[index] = arguments.get(index, "") + piece
            case {"type": "content_block_stop"}:
                assert is_open
                assert event["index"] == len(blocks) - 1
                is_open = False
            case _:
                pytest.fail(f"unexpected {event}")
    assert not is_open
    for index, piece in arguments.items():
        blocks[index]["input"] = json.loads(piece)
    return message | events[-2]["delta"] | {"usage": events[-2]["usage"]}


def answer_of(chunks: list[Json]) -> Json:
    """Puts a chat completion together as clients do."""
    message: Json = {"role": "assistant", "content": "", "refusal": None}
    calls: list[Json] = []
    finish = {}
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        if choice["finish_reason"] is not None:
            finish = {k: v for k, v in choice.items() if k not in ("index", "delta")}
        for field in ("content", "reasoning_content"):
            if piece := choice["delta"].get(field):
                message[field] = message.get(field, "") + piece
        if blocks := choice["delta"].get("thinking_blocks"):
            message["thinking_blocks"] = message.get("thinking_blocks", []) + blocks
        for part in choice["delta"].get("tool_calls", []):
            if part["index"] == len(calls):
                calls.append({k: v for k, v in part.items() if k != "index"})
                calls[-1]["function"] = dict(part["function"])
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    message["content"] = message["content"] or None
    if calls:
        message["tool_calls"] = calls
    head = {k: chunks[0][k] for k in ("id", "created", "model")} | {"object": "chat.completion"}
    choice = {"index": 0, "message": message, "logprobs": None} | finish
    assert chunks[-1]["choices"] == []
    return head | {"choices": [choice], "usage": chunks[-1]["usage"]}


@properties
@given(chunked(), st.booleans())
def test_a_chat_stream_says_what_the_whole_answer_says(
    said: tuple[Json, list[Json]], hide: bool
) -> None:
    whole, chunks = said
    message = message_of(to_events(chunks, hide_thinking=hide))
    assert message == to_anthropic(whole, model="kimi", hide_thinking=hide)


@properties
@given(chunked(interleaved=True))
def test_tool_calls_that_come_by_turns_become_one_block_each(
    said: tuple[Json, list[Json]],
) -> None:
    whole, chunks = said
    assert message_of(to_events(chunks)) == to_anthropic(whole, model="kimi")


@properties
@given(chunked())
def test_an_anthropic_stream_says_what_the_whole_message_says(
    said: tuple[Json, list[Json]],
) -> None:
    whole, chunks = said
    events = to_events(chunks)
    assert answer_of(to_chunks(events)) == to_chat_response(
        message_of(events), model="kimi", created=1_700_000_000
    )
    assert answer_of(to_chunks(events)) == whole


@properties
@given(chunked(), st.lists(st.integers(0, 4000), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_any_split_of_the_bytes_gives_the_same_bytes(
    said: tuple[Json, list[Json]], cuts: list[int], newline: str
) -> None:
    lines = [f"data: {json.dumps(c)}{newline}{newline}" for c in said[1]]
    data = "".join([*lines, f": ping{newline}{newline}data: [DONE]{newline}{newline}"]).encode()
    places = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    stream = ByteStream(ChatToAnthropicStream(model="kimi"), to_anthropic=True)
    out = b"".join(stream.feed(data[a:b]) for a, b in itertools.pairwise(places)) + stream.end()
    read = sse.EventReader().feed(out)
    assert [json.loads(e.data) for e in read] == to_events(said[1])
    assert all(e.event == json.loads(e.data)["type"] for e in read)


@properties
@given(chunked(), st.data())
def test_a_cut_chat_stream_is_an_error_and_never_a_stop(
    said: tuple[Json, list[Json]], data: st.DataObject
) -> None:
    chunks = said[1]
    finish = next(i for i, c in enumerate(chunks) if c["choices"][0].get("finish_reason"))
    stream = ByteStream(ChatToAnthropicStream(model="kimi"), to_anthropic=True)
    out = b""
    for chunk in chunks[: data.draw(st.integers(0, finish))]:
        out += stream.feed(sse.encode(json.dumps(chunk).encode()))
    if data.draw(st.booleans()):
        out += stream.feed(b"data: [DONE]\n\n")
    out += stream.end()
    events = sse.EventReader().feed(out)
    assert events[-1].event == "error"
    assert json.loads(events[-1].data)["error"]["type"] == "api_error"
    assert b"message_stop" not in out
    assert stream.failure is not None
    assert stream.failure.type == "stream_truncated"


@properties
@given(chunked(), st.data())
def test_a_cut_anthropic_stream_is_an_error_and_never_done(
    said: tuple[Json, list[Json]], data: st.DataObject
) -> None:
    events = to_events(said[1])[:-2]
    translator = AnthropicToChatStream(model="kimi", created=0)
    stream = ByteStream(translator, to_anthropic=False)
    out = b""
    for event in events[: data.draw(st.integers(0, len(events)))]:
        out += stream.feed(sse.encode(json.dumps(event).encode(), event=event["type"]))
    out += stream.end()
    last = json.loads(sse.EventReader().feed(out)[-1].data)
    assert last["error"]["type"] == "stream_truncated"
    assert b"[DONE]" not in out
    assert b'"finish_reason":"' not in out


def test_a_whole_chat_answer_to_a_chat_client_ends_with_done() -> None:
    stream = ByteStream(AnthropicToChatStream(model="kimi", created=0), to_anthropic=False)
    events: list[Json] = [
        {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 3}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        {"type": "message_stop"},
    ]
    out = b"".join(stream.feed(sse.encode(json.dumps(e).encode(), e["type"])) for e in events)
    out += stream.end()
    assert out.endswith(b"data: [DONE]\n\n")
    assert b'"usage"' not in out  # nobody asked for it


@pytest.mark.parametrize("data", [b"{", b"[1]", b"null", b'"x"', b"\xff", b"[" * 5000])
def test_an_event_that_is_no_object_ends_the_answer_with_an_error(data: bytes) -> None:
    stream = ByteStream(ChatToAnthropicStream(model="kimi"), to_anthropic=True)
    out = stream.feed(sse.encode(data)) + stream.feed(sse.encode(b"{}")) + stream.end()
    (event,) = sse.EventReader().feed(out)
    assert event.event == "error"
    assert stream.failure is not None
    assert stream.failure.status == 502


def test_an_event_without_end_is_an_error_before_memory_fills() -> None:
    stream = ByteStream(ChatToAnthropicStream(model="kimi"), to_anthropic=True, limit=1000)
    out = b"".join(stream.feed(b"data: " + b"x" * 100) for _ in range(20))
    assert out.startswith(b"event: error\n")


def test_an_error_inside_the_stream_reaches_the_client_in_its_own_shape() -> None:
    chat = {"error": {"type": "engine_overloaded_error", "message": "busy"}}
    assert to_events([chat]) == [
        {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    ]
    anthropic = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    (chunk,) = to_chunks([anthropic])
    assert chunk["error"]["type"] == "overloaded_error"
    assert chunk["error"]["message"] == "busy"


def test_a_broken_connection_is_told_once() -> None:
    stream = ByteStream(ChatToAnthropicStream(model="kimi"), to_anthropic=True)
    failure = GatewayFailure(502, "connection_broken", "the connection to the provider broke")
    assert b"the connection to the provider broke" in stream.fail(failure)
    assert stream.end() == b""
    assert stream.failure == failure


def test_each_piece_goes_out_with_its_chunk() -> None:
    stream = ChatToAnthropicStream(model="kimi")
    pieces = []
    for field, piece in [("reasoning_content", "Hm"), ("content", "O"), ("content", "k")]:
        chunk = {"id": "c", "choices": [{"index": 0, "delta": {field: piece}}]}
        pieces.append([e["delta"] for e in stream.feed(chunk) if "delta" in e][-1])
    assert pieces == [
        {"type": "thinking_delta", "thinking": "Hm"},
        {"type": "text_delta", "text": "O"},
        {"type": "text_delta", "text": "k"},
    ]


def test_a_second_choice_is_not_mixed_into_the_first() -> None:
    choices = [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "yes"}}]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    message = message_of(to_events([{"id": "c", "choices": choices}, end]))
    assert message["content"] == [{"type": "text", "text": "yes"}]


def test_a_call_without_id_gets_the_same_one_streamed_or_not() -> None:
    function = {"name": "ls", "arguments": "{}"}
    delta = {"tool_calls": [{"index": 0, "function": function}]}
    chunk = {"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]}
    message = {"tool_calls": [{"function": function}]}
    whole = {"id": "c1", "choices": [{"message": message, "finish_reason": "tool_calls"}]}
    assert message_of(to_events([chunk])) == to_anthropic(whole, model="kimi")


def test_thinking_that_a_provider_signed_is_kept_for_it() -> None:
    thought = {"type": "thinking", "thinking": "Hm", "signature": "theirs"}
    sealed = {"type": "redacted_thinking", "data": "opaque"}
    events: list[Json] = [
        {"type": "message_start", "message": {"id": "msg_1"}},
        {"type": "content_block_start", "index": 0, "content_block": thought | {"signature": ""}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "signature_delta", "signature": "theirs"},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": sealed},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
    ]
    message = answer_of(to_chunks(events))["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm"
    assert message["thinking_blocks"] == [thought, sealed]


def test_input_that_a_relay_gives_at_the_start_of_a_call_is_not_lost() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "ls", "input": {"path": "/"}}
    events: list[Json] = [
        {"type": "message_start", "message": {"id": "msg_1"}},
        {"type": "content_block_start", "index": 0, "content_block": call},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
    ]
    (got,) = answer_of(to_chunks(events))["choices"][0]["message"]["tool_calls"]
    assert got["function"] == {"name": "ls", "arguments": '{"path":"/"}'}
