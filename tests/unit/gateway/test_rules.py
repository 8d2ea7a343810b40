"""A request as its model takes it: options, tools, and what is left alone."""

from __future__ import annotations

from typing import Any

import pytest

from runner.demo.catalog import OPEN_PLATFORM
from runner.demo.rules import check_request
from runner.gateway.rules import prepare
from runner.gateway.thinking import ThinkingWish
from runner.settings.models import ModelFacts, shipped

USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}
FORCED = {"type": "function", "function": {"name": "read"}}
NO_THINKING = ThinkingWish(enabled=False)


def facts(model: str) -> ModelFacts:
    found = shipped().find(model)
    assert found is not None
    return found


def prepared(model: str = "kimi-k2.6", wish: ThinkingWish | None = None, **fields: Any) -> Any:
    request = {"model": model, "messages": [USER], **fields}
    return prepare(request, facts(model), thinking=wish or ThinkingWish())


@pytest.mark.parametrize("model", ["kimi-k3", "kimi-k2.7-code", "kimi-k2.6", "kimi-for-coding"])
@pytest.mark.parametrize("wish", [ThinkingWish(), NO_THINKING])
def test_sampling_is_left_to_the_provider(model: str, wish: ThinkingWish) -> None:
    asked = {"temperature": 0.3, "top_p": 0.5, "n": 2, "presence_penalty": 1}
    sent = prepared(model, wish, **asked, frequency_penalty=0.1, stop=["x"])
    assert not set(sent) & {*asked, "frequency_penalty"}
    assert sent["stop"] == ["x"]


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({"max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ({"max_completion_tokens": None, "max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"max_tokens": None}, {}),
    ],
)
def test_the_limit_of_an_answer_has_one_name(said: dict[str, Any], sent: dict[str, Any]) -> None:
    result = prepared(**said)
    assert {k: v for k, v in result.items() if "max" in k} == sent


def test_nothing_is_forced_while_the_model_thinks() -> None:
    for choice in (FORCED, "required", {"type": "allowed_tools"}, 3):
        assert prepared(tools=[TOOL], tool_choice=choice)["tool_choice"] == "auto"
        assert prepared("kimi-k3", NO_THINKING, tools=[TOOL], tool_choice=choice)[
            "tool_choice"
        ] == ("auto")
    for choice in (FORCED, "required", "none"):
        sent = prepared("kimi-k2.6", NO_THINKING, tools=[TOOL], tool_choice=choice)
        assert sent["tool_choice"] == choice
    assert prepared(tools=[TOOL], tool_choice="none")["tool_choice"] == "none"


def test_an_option_without_its_companion_goes() -> None:
    lonely = {"stream_options": {"include_usage": True}, "tool_choice": "auto", "tools": []}
    for model in (facts("kimi-k3"), None):
        sent = prepare({"messages": [USER], **lonely, "parallel_tool_calls": True}, model)
        assert not set(sent) & {*lonely, "parallel_tool_calls"}
    kept = {"stream": True, "stream_options": {"include_usage": True}}
    assert kept.items() <= prepared(**kept).items()


def test_fields_of_another_vendor_s_service_go_and_unknown_ones_stay() -> None:
    sent = prepared(store=True, service_tier="auto", metadata={}, prompt_cache_key=3, brand_new=1)
    assert not set(sent) & {"store", "service_tier", "metadata", "prompt_cache_key"}
    assert sent["brand_new"] == 1
    assert prepared(prompt_cache_key="s1")["prompt_cache_key"] == "s1"


def test_an_unknown_model_gets_its_request_as_it_came() -> None:
    request = {
        "model": "gpt-5",
        "messages": [
            {"role": "developer", "content": "x"},
            {"role": "user", "content": "", "cache_control": {}},
            {"role": "system", "content": "late"},
            {"role": "assistant", "content": "x"},
        ],
        "temperature": 0.3,
        "max_tokens": 5,
        "reasoning_effort": "medium",
        "service_tier": "auto",
        "tools": [{"type": "function", "function": {"name": "t", "parameters": {"anyOf": []}}}],
        "tool_choice": "required",
    }
    assert prepare(request, None) == request
    assert prepare(request, ModelFacts(id="gpt-5")) == request


def test_every_model_gets_results_behind_their_calls() -> None:
    call = {"id": "a" * 80, "type": "function", "function": {"name": "read", "arguments": "{}"}}
    messages = [{"role": "assistant", "tool_calls": [call]}, USER]
    for model in (facts("kimi-k3"), None):
        sent = prepare({"messages": messages}, model)["messages"]
        assert [m["role"] for m in sent] == ["assistant", "tool", "user"]
        assert sent[0]["tool_calls"][0]["id"] == sent[1]["tool_call_id"]
        assert len(sent[1]["tool_call_id"]) <= 64


@pytest.mark.parametrize("messages", [None, 3, "x", {}, []])
def test_messages_that_are_none_are_for_the_provider_to_refuse(messages: Any) -> None:
    for model in (facts("kimi-k3"), None):
        assert prepare({"messages": messages}, model)["messages"] == messages
    assert "messages" not in prepare({}, facts("kimi-k3"))


def test_an_answer_that_the_client_has_begun_is_marked_so_that_the_api_goes_on_with_it() -> None:
    begun = {"role": "assistant", "content": "{"}
    sent = prepare({"messages": [USER, begun]}, facts("kimi-k2.6"))
    assert sent["messages"] == [USER, {**begun, "partial": True}]
    assert check_request(sent, OPEN_PLATFORM["kimi-k2.6"]) is None
