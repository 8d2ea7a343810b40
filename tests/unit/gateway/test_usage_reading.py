from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.calls import Tokens
from runner.gateway.usage import (
    chat_stream,
    chat_tokens,
    chat_usage,
    messages_stream,
    messages_tokens,
    messages_usage,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
names = st.sampled_from(
    [
        "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "input_tokens",
        "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
        "prompt_tokens_details", "completion_tokens_details", "reasoning_tokens", "cache_creation",
        "usage", "choices", "message",
    ]
)  # fmt: skip
broken = st.dictionaries(
    names,
    json_values
    | st.integers(0, 10**6)
    | st.dictionaries(names, st.integers(0, 10**6) | json_values, max_size=4),
)


def chat(*chunks: dict[str, Any]) -> Tokens:
    return chat_tokens(reduce(chat_stream, chunks, None))


def messages(*events: dict[str, Any]) -> Tokens:
    return messages_tokens(reduce(messages_stream, events, None))


KIMI = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050, "cached_tokens": 768}


def test_cached_tokens_are_taken_out_of_the_prompt() -> None:
    assert chat_usage({"usage": KIMI}) == Tokens(input=232, cached=768, output=50)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 50,
                "prompt_tokens_details": {"cached_tokens": 256},
                "completion_tokens_details": {"reasoning_tokens": 40},
            },
            Tokens(input=744, cached=256, output=50, reasoning=40),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4},
            Tokens(input=6, cached=4, output=5),
        ),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 20},
            },
            Tokens(input=40, cached=40, cache_write=20, output=5),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5}, Tokens(input=10, output=5)),
        ({"completion_tokens": 5}, Tokens(output=5)),
        ({}, Tokens()),
    ],
)
def test_each_provider_s_way_to_report_is_read(usage: dict[str, Any], expected: Tokens) -> None:
    assert chat_usage({"usage": usage}) == expected


def test_an_answer_without_usage_is_missing_and_not_zero() -> None:
    assert chat_usage({"choices": [{"message": {}}]}) == Tokens()
    assert messages_usage({"content": []}) == Tokens()
    assert Tokens().total is None


def test_a_provider_that_counts_caches_apart_is_believed() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 990}
    assert chat_usage({"usage": usage}) == Tokens(input=10, cached=990, output=5)


def test_reasoning_that_the_provider_counts_apart_joins_the_output() -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 7}}
    apart = {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 25, **details}
    within = {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18, **details}
    assert chat_usage({"usage": apart}).output == 15
    assert chat_usage({"usage": within}).output == 8


def test_usage_in_the_last_choice_of_a_stream_is_read() -> None:
    got = chat(
        {"choices": [{"delta": {"content": "hi"}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop", "usage": KIMI}]},
    )
    assert got == Tokens(input=232, cached=768, output=50)


def test_usage_in_a_final_chunk_with_empty_choices_is_read() -> None:
    got = chat(
        {"choices": [{"delta": {"content": "hi"}}], "usage": None},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": None},
        {"choices": [], "usage": KIMI},
    )
    assert got == Tokens(input=232, cached=768, output=50)


def test_later_numbers_of_a_stream_replace_earlier_ones() -> None:
    got = chat(
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}},
    )
    assert got == Tokens(input=9, output=4)


def test_a_stream_that_broke_before_its_usage_has_none() -> None:
    assert chat({"choices": [{"delta": {"content": "hi"}}]}) == Tokens()


START = {
    "type": "message_start",
    "message": {
        "usage": {
            "input_tokens": 12,
            "cache_read_input_tokens": 300,
            "cache_creation_input_tokens": 40,
            "output_tokens": 1,
        }
    },
}


def test_an_anthropic_stream_tells_input_first_and_output_last() -> None:
    got = messages(
        START,
        {"type": "content_block_delta", "delta": {"text": "x"}},
        {"type": "message_delta", "usage": {"output_tokens": 99}},
        {"type": "message_stop"},
    )
    assert got == Tokens(input=12, cached=300, cache_write=40, output=99)
    assert got.total == 451


def test_an_anthropic_stream_that_broke_has_no_output_rather_than_its_first_token() -> None:
    assert messages(START) == Tokens(input=12, cached=300, cache_write=40)


def test_input_that_only_the_last_event_knows_is_taken_from_there() -> None:
    got = messages(
        {"type": "message_start", "message": {"usage": {"input_tokens": 0, "output_tokens": 0}}},
        {"type": "message_delta", "usage": {"input_tokens": 7, "output_tokens": 3}},
    )
    assert got == Tokens(input=7, output=3)


def test_cache_writes_by_lifetime_are_added_up() -> None:
    by_lifetime = {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}
    usage = {"input_tokens": 1, "output_tokens": 2, "cache_creation": by_lifetime}
    assert messages_usage({"usage": usage}).cache_write == 7


@pytest.mark.parametrize("count", [-1, True, "5", 10**12, 1.5, float("nan"), None, [5]])
def test_a_number_that_is_none_is_missing(count: Any) -> None:
    assert chat_usage({"usage": {"prompt_tokens": count, "completion_tokens": 5}}).input is None
    assert messages_usage({"usage": {"input_tokens": count, "output_tokens": 5}}).input is None


@given(broken)
def test_no_report_of_a_provider_breaks_the_reader(usage: dict[str, Any]) -> None:
    shapes = (
        usage,
        {"usage": usage},
        {"choices": [{"usage": usage}], "usage": usage},
        {"type": "message_start", "message": {"usage": usage}},
        {"type": "message_delta", "usage": usage},
    )
    for shape in shapes:
        for got in (chat(shape, shape), chat_usage(shape), messages(shape), messages_usage(shape)):
            known = (got.input, got.cached, got.cache_write, got.output, got.reasoning)
            assert all(n is None or n >= 0 for n in known)
