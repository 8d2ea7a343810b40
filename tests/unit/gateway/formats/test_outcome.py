from __future__ import annotations

from typing import Any

import pytest

from runner.gateway.formats import Json
from runner.gateway.formats.anthropic_response import to_anthropic
from runner.gateway.formats.outcome import (
    anthropic_usage,
    chat_usage,
    finish_fields,
    stop_reason,
    usage_of,
)


@pytest.mark.parametrize(
    ("choice", "called", "expected"),
    [
        ({"finish_reason": "stop"}, False, ("end_turn", None)),
        ({"finish_reason": "stop"}, True, ("tool_use", None)),
        ({"finish_reason": "length"}, True, ("max_tokens", None)),
        ({"finish_reason": "tool_calls"}, True, ("tool_use", None)),
        ({"finish_reason": "content_filter"}, False, ("refusal", None)),
        ({"finish_reason": "stop", "stop_reason": "END"}, False, ("stop_sequence", "END")),
        ({"finish_reason": "stop", "stop_reason": "other"}, False, ("end_turn", None)),
        ({"finish_reason": "brand_new"}, False, ("end_turn", None)),
    ],
)
def test_reasons_to_stop_are_translated(choice: Json, called: bool, expected: Any) -> None:
    assert stop_reason(choice, called=called, stop_sequences=["END"]) == expected


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
    ],
)
def test_reasons_to_stop_are_translated_back(reason: str, expected: str) -> None:
    assert finish_fields(reason, None) == {"finish_reason": expected}


def test_the_sequence_that_was_met_survives() -> None:
    choice = finish_fields("stop_sequence", "END")
    assert stop_reason(choice, called=False, stop_sequences=["END"]) == ("stop_sequence", "END")


def test_cached_tokens_stand_beside_the_input_and_not_in_it() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    there = anthropic_usage(usage)
    assert there == {
        "input_tokens": 30,
        "cache_creation_input_tokens": 10,
        "cache_read_input_tokens": 60,
        "output_tokens": 20,
        "output_tokens_details": {"thinking_tokens": 5},
    }
    assert chat_usage(there) == usage | {"total_tokens": 120}


def test_kimis_places_for_usage_are_found() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "cached_tokens": 2}
    chunk = {"choices": [{"delta": {}, "usage": usage}]}
    assert anthropic_usage(usage_of(chunk))["cache_read_input_tokens"] == 2


def test_usage_that_was_not_told_is_zero_for_clients_that_need_a_number() -> None:
    choice = {"message": {"content": "x"}, "finish_reason": "stop"}
    got = to_anthropic({"id": "1", "choices": [choice]}, model="m")
    assert got["usage"]["input_tokens"] == got["usage"]["output_tokens"] == 0
    assert (
        anthropic_usage({"prompt_tokens": "many", "completion_tokens": True})["input_tokens"] == 0
    )
