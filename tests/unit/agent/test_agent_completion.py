"""A streamed answer, however its bytes are split."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.agent.completion import MAX_EVENT, Completion, EventParser
from runner.agent.failures import ModelFailure
from runner.model import Usage


def event(**chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def delta(**fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": fields}])


def call(index: int, **fields: Any) -> bytes:
    return delta(tool_calls=[{"index": index, **fields}])


STREAM = b"".join(
    [
        b": a comment\r\n\r\n",
        delta(role="assistant", reasoning_content="Hm, é"),
        delta(content="On"),
        delta(content="e 漢"),
        call(0, id="bash:0", type="function", function={"name": "bash", "arguments": '{"a'}),
        call(1, id="read:1", type="function", function={"name": "read", "arguments": "{}"}),
        call(0, function={"arguments": '": 1}'}),
        event(choices=[{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]),
        event(
            choices=[],
            usage={
                "prompt_tokens": 10,
                "completion_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 6},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        ),
        b"data: [DONE]\r\n\r\n",
    ]
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_any_split_of_the_stream_gives_the_same_reply(cuts: list[int]) -> None:
    points = [0, *sorted(cuts), len(STREAM)]
    completion = Completion()
    text = reasoning = ""
    for start, end in itertools.pairwise(points):
        got = completion.feed(STREAM[start:end])
        text += got.text
        reasoning += got.reasoning
    reply = completion.reply()
    assert completion.done
    assert (reply.text, reply.reasoning, reply.finish) == ("One 漢", "Hm, é", "tool_calls")
    assert (text, reasoning) == (reply.text, reply.reasoning)
    assert [(c.id, c.function.name, c.function.arguments) for c in reply.calls] == [
        ("bash:0", "bash", '{"a": 1}'),
        ("read:1", "read", "{}"),
    ]
    assert reply.usage == Usage(10, 6, 4, 2)


@given(st.binary(max_size=300))
def test_garbage_is_a_failure_and_nothing_else(data: bytes) -> None:
    completion = Completion()
    try:
        completion.feed(b"data:" + data + b"\n\n")
        completion.reply()
    except ModelFailure:
        pass


def test_usage_inside_the_last_choice_counts() -> None:
    completion = Completion()
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "cached_tokens": 2}
    completion.feed(event(choices=[{"delta": {}, "finish_reason": "stop", "usage": usage}]))
    assert completion.reply().usage == Usage(3, 2, 1, None)


def test_a_stream_that_ends_without_a_finish_reason_is_cut() -> None:
    completion = Completion()
    completion.feed(delta(content="half") + b"data: [DONE]\n\n")
    with pytest.raises(ModelFailure) as failure:
        completion.reply()
    assert (failure.value.code, failure.value.retryable) == ("stream_cut", True)


def test_an_error_inside_the_stream_is_classified() -> None:
    completion = Completion()
    with pytest.raises(ModelFailure) as failure:
        completion.feed(event(error={"type": "engine_overloaded_error", "message": "busy"}))
    assert (failure.value.code, failure.value.retryable) == ("rate_limited", True)


def test_an_event_without_end_is_refused_before_memory_fills() -> None:
    parser = EventParser()
    with pytest.raises(ModelFailure):
        for _ in range(MAX_EVENT // 65536 + 2):
            parser.feed(b"x" * 65536)
