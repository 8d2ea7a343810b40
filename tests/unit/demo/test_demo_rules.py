"""What the demo provider refuses: the rules of the real API, one promise each."""

from __future__ import annotations

from typing import Any

import pytest

from runner.demo import rules
from runner.demo.catalog import KIMI_CODE, OPEN_PLATFORM
from runner.demo.rules import ApiError, check_client, check_request, find_model

CODE = KIMI_CODE["kimi-for-coding"]
TINY = KIMI_CODE["demo-tiny"]
USER = {"role": "user", "content": "hello"}


def tool(name: str = "read", **schema: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {}, **schema}},
    }


def called(*ids: str, **fields: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": i, "type": "function", "function": {"name": "read", "arguments": "{}"}}
            for i in ids
        ],
        **fields,
    }


def result(id_: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": "ok"}


def check(messages: list[Any], **request: Any) -> ApiError | None:
    return check_request({"messages": messages, **request}, CODE)


def test_an_ordinary_tool_conversation_is_let_through() -> None:
    messages = [
        {"role": "system", "content": "be kind"},
        USER,
        called("read:0", "read:1"),
        result("read:1"),
        result("read:0"),
        {"role": "assistant", "content": "done", "reasoning_content": "x"},
        USER,
    ]
    request = {
        "tools": [tool()],
        "tool_choice": "auto",
        "thinking": {"type": "enabled", "keep": "all"},
        "temperature": 1.0,
        "max_completion_tokens": 100,
        "stream": True,
        "stream_options": {"include_usage": True},
        "prompt_cache_key": "s1",
    }
    assert check(messages, **request) is None


def test_missing_reasoning_gets_the_exact_words_and_the_index() -> None:
    messages = [USER, called("a"), result("a"), called("b", reasoning_content=""), result("b")]
    error = check(messages)
    assert error == ApiError(
        400,
        "invalid_request_error",
        "thinking is enabled but reasoning_content is missing in assistant tool call message "
        "at index 3",
    )


def test_missing_reasoning_is_fine_without_thinking() -> None:
    plain = called("a")
    del plain["reasoning_content"]
    assert check([USER, plain, result("a")], thinking={"type": "disabled"}) is None


def test_a_model_that_always_thinks_cannot_be_talked_out_of_it() -> None:
    plain = called("a")
    del plain["reasoning_content"]
    request = {"messages": [USER, plain, result("a")], "thinking": {"type": "disabled"}}
    assert check_request(request, OPEN_PLATFORM["kimi-k2.7-code"]) is not None
    assert check_request(request, OPEN_PLATFORM["kimi-k2.6"]) is None


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([USER, called("a", content=""), result("a")], "text content is empty"),
        ([USER, called("a", content=[{"type": "text", "text": ""}]), result("a")], "is empty"),
        ([USER, called("a"), USER], "did not have response messages: a"),
        ([USER, called("a", "b"), result("a")], "did not have response messages: b"),
        ([USER, called("a"), result("a"), result("a")], "tool_call_id a is not found"),
        ([USER, result("ghost")], "tool_call_id ghost is not found"),
        ([USER, called("a"), result("b")], "tool_call_id b is not found"),
        ([USER, called("x" * 65), result("x" * 65)], "at most 64 characters"),
        ([USER, called("a", "a"), result("a")], "unique"),
        ([{"role": "user", "content": ""}], "must not be empty"),
        ([{"role": "assistant", "content": None}], "must not be empty"),
        ([{"role": "developer", "content": "x"}], "roles"),
        ([USER, {"role": "system", "content": "late"}, USER], "must come first"),
        ([USER, {"role": "assistant", "content": "I"}], "last message"),
        ([{"role": "user", "content": "x", "cache_control": {}}], "cache_control"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}],
            "without further fields",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://x"}}],
                }
            ],
            "image url",
        ),
        ([], "non-empty list"),
        (["x"], "roles"),
    ],
)
def test_a_malformed_conversation_is_refused(messages: list[Any], words: str) -> None:
    error = check(messages)
    assert error is not None
    assert (error.status, error.type) == (400, "invalid_request_error")
    assert words in error.message


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"temperature": 0.3}, "only 1 is allowed"),
        ({"temperature": 1.0, "thinking": {"type": "disabled"}}, "only 0.6 is allowed"),
        ({"top_p": 0.5}, "invalid top_p"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens is deprecated"),
        ({"max_completion_tokens": 0}, "positive integer"),
        ({"thinking": {"type": "adaptive"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "effort": "extreme"}}, "thinking.effort"),
        ({"tool_choice": {"type": "function", "function": {"name": "read"}}}, "'specified'"),
        ({"tool_choice": "required"}, "'required'"),
        ({"stream_options": {"include_usage": True}}, "only allowed when stream"),
        ({"tools": [tool(), tool()]}, "read is duplicated"),
        ({"tools": [tool("no spaces")]}, "name is invalid"),
        ({"tools": [{"type": "function", "function": {"name": "x", "parameters": {"anyOf": []}}}]},
         "anyOf is not allowed"),
        ({"tools": [tool(properties={"a": {"$ref": "https://x/y"}})]}, "must point into this"),
        ({"tools": [tool(properties={"a": {"$ref": "#/$defs/none"}})]}, "must point into this"),
        ({"tools": [tool(properties={"a": {"type": "string", "anyOf": []}})]}, "when using anyOf"),
    ],
)  # fmt: skip
def test_an_option_the_api_does_not_take_is_refused(request_: dict[str, Any], words: str) -> None:
    error = check([USER], **request_)
    assert error is not None
    assert error.status == 400
    assert words in error.message


def test_a_reference_inside_the_schema_is_fine() -> None:
    inside = tool(properties={"a": {"$ref": "#/$defs/b"}}, **{"$defs": {"b": {"type": "string"}}})
    assert check([USER], tools=[inside]) is None


def test_a_prompt_over_the_context_names_both_numbers() -> None:
    long = {"role": "user", "content": "x" * 20_000}
    error = check_request({"messages": [long]}, TINY)
    assert error is not None
    assert "exceeded model token limit: 4000 (requested: 50" in error.message


def test_an_image_costs_the_same_whatever_its_size() -> None:
    def tokens(size: int) -> int:
        url = "data:image/png;base64," + "A" * size
        part = {"type": "image_url", "image_url": {"url": url}}
        return rules.count_tokens({"messages": [{"role": "user", "content": [part]}]})

    assert tokens(10) == tokens(1_000_000)


@pytest.mark.parametrize("name", ["kimi-latest", "kimi-k2.5", "moonshot-v1-8k", "gpt-4"])
def test_retired_and_unknown_models_are_not_found(name: str) -> None:
    error = find_model(OPEN_PLATFORM, name)
    assert isinstance(error, ApiError)
    assert (error.status, error.type) == (404, "resource_not_found_error")


@pytest.mark.parametrize("agent", ["", "python-httpx/0.28", "Mozilla/5.0", "my nanokimi/1"])
def test_unknown_clients_are_kept_out(agent: str) -> None:
    error = check_client(agent)
    assert error is not None
    assert error.status == 403


def test_known_clients_are_let_in() -> None:
    assert check_client("nanokimi/0.1.0") is None
