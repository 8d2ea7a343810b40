"""What a chat client sends, and what an Anthropic-speaking provider gets to read."""

from __future__ import annotations

from typing import Any

import pytest

from runner.gateway.formats import Json, thinking
from runner.gateway.formats.chat_to_anthropic import Dialect, to_anthropic_request
from runner.gateway.formats.fields import MALFORMED, BadField

STRICT = Dialect(verifies_signatures=True)
CALL = {"id": "bash:0", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}


def request(*messages: Json, **fields: Any) -> Json:
    return {"model": "m", "messages": list(messages)} | fields


def said(role: str, content: Any, **fields: Any) -> Json:
    return {"role": role, "content": content} | fields


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def test_turns_alternate_and_results_come_first() -> None:
    got = to_anthropic_request(
        request(
            said("system", "S"),
            said("developer", "D"),
            said("user", "a"),
            said("user", "b"),
            said("assistant", "", tool_calls=[CALL, CALL | {"id": "bash:1"}]),
            said("tool", "0", tool_call_id="bash:0"),
            said("user", "meanwhile"),
            said("tool", "1", tool_call_id="bash:1"),
        )
    )
    assert got["system"] == [text("S"), text("D")]
    assert [m["role"] for m in got["messages"]] == ["user", "assistant", "user"]
    assert got["messages"][0]["content"] == [text("a"), text("b")]
    assert [b["type"] for b in got["messages"][2]["content"]] == [
        *("tool_result", "tool_result", "text")
    ]
    assert got["messages"][1]["content"][0]["id"] == "nk-bash-c0"


def test_anthropic_always_gets_a_limit() -> None:
    assert to_anthropic_request(request(said("user", "a")))["max_tokens"] == 8192
    limited = request(said("user", "a"), max_completion_tokens=7)
    assert to_anthropic_request(limited)["max_tokens"] == 7


def test_arguments_that_are_no_object_do_not_stop_the_conversation() -> None:
    function = {"name": "bash", "arguments": '{"cmd": "l'}
    calls = [CALL | {"function": function}]
    got = to_anthropic_request(request(said("assistant", None, tool_calls=calls)))
    assert got["messages"][0]["content"][0]["input"] == {MALFORMED: '{"cmd": "l'}


def test_system_words_in_mid_conversation_stand_where_they_were() -> None:
    messages = [said("user", "a"), said("system", "now"), said("assistant", "b")]
    got = to_anthropic_request(request(*messages))["messages"]
    assert got[0]["content"][1] == text("<system-reminder>\nnow\n</system-reminder>")
    able = to_anthropic_request(request(*messages), Dialect(system_messages=True))["messages"]
    assert [m["role"] for m in able] == ["user", "system", "assistant"]


def test_reasoning_goes_only_where_it_is_taken() -> None:
    message = said("assistant", "b", reasoning_content="Hm")
    relay = to_anthropic_request(request(said("user", "a"), message))
    assert relay["messages"][1]["content"] == [thinking.shown("Hm"), text("b")]
    strict = to_anthropic_request(request(said("user", "a"), message), STRICT)
    assert strict["messages"][1]["content"] == [text("b")]
    signed = {"type": "thinking", "thinking": "Hm", "signature": "theirs"}
    again = request(said("user", "a"), message | {"thinking_blocks": [signed]})
    assert to_anthropic_request(again, STRICT)["messages"][1]["content"][0] == signed


def test_a_call_without_signed_thinking_switches_thinking_off_where_it_is_verified() -> None:
    under_way = request(
        said("user", "a"),
        said("assistant", None, tool_calls=[CALL], reasoning_content="Hm"),
        said("tool", "0", tool_call_id="bash:0"),
        reasoning_effort="high",
        max_tokens=50_000,
    )
    assert "thinking" not in to_anthropic_request(under_way, STRICT)
    assert to_anthropic_request(under_way)["thinking"]["budget_tokens"] == 32768
    over = under_way | {"messages": [*under_way["messages"], said("user", "next")]}
    assert "thinking" not in to_anthropic_request(over, STRICT)
    ended = over | {"messages": [*under_way["messages"], said("assistant", "b"), said("user", "c")]}
    assert "thinking" in to_anthropic_request(ended, STRICT)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"reasoning_effort": "low"}, {"type": "enabled", "budget_tokens": 4096}),
        ({"thinking": {"type": "enabled"}}, {"type": "enabled", "budget_tokens": 9_999}),
        ({"reasoning_effort": "none"}, {"type": "disabled"}),
        ({"thinking": {"type": "disabled"}}, {"type": "disabled"}),
        ({"reasoning_effort": "low", "max_tokens": 500}, None),
        ({"reasoning_effort": "low", "tools": [TOOL], "tool_choice": "required"}, None),
        ({}, None),
    ],
)
def test_thinking_is_asked_for_only_as_anthropic_allows(fields: Json, expected: Any) -> None:
    got = to_anthropic_request(request(said("user", "a"), **{"max_tokens": 10_000} | fields))
    assert got.get("thinking") == expected


def test_sampling_stays_within_anthropics_range() -> None:
    hot = request(said("user", "a"), temperature=1.7, top_p=0.5)
    assert to_anthropic_request(hot)["temperature"] == 1
    assert "temperature" not in to_anthropic_request(hot | {"reasoning_effort": "low"})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "bash"}}},
            {"type": "tool", "name": "bash"},
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required"}}},
            {"type": "any"},
        ),
    ],
)
def test_a_choice_of_tools_is_kept(fields: Json, expected: Any) -> None:
    got = to_anthropic_request(request(said("user", "a"), tools=[TOOL], **fields))
    assert got.get("tool_choice") == expected


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"messages": []}, "model"),
        (request(), "messages"),
        (request(said("function", "a", name="f")), "messages.0.role"),
        (request(said("user", [{"type": "text"}])), "messages.0.content.0.text"),
        (request(said("user", [{"type": "image_url"}])), "messages.0.content.0.image_url.url"),
        (request(said("tool", "a")), "messages.0.tool_call_id"),
        (request(said("assistant", "", tool_calls=[{}])), "messages.0.tool_calls.0.function"),
        (request(said("user", "a"), tools=[{"type": "function"}]), "tools.0.function"),
        (request(said("user", "a"), tools=[TOOL], tool_choice="all"), "tool_choice"),
        (request(said("user", "a"), stop=[1]), "stop"),
        (
            request(said("user", "a"), response_format={"type": "json_schema"}),
            "response_format.json_schema.schema",
        ),
    ],
)
def test_a_refusal_names_the_field(wrong: Json, field: str) -> None:
    with pytest.raises(BadField) as refusal:
        to_anthropic_request(wrong)
    assert refusal.value.field == field
    assert refusal.value.failure.status == 400
