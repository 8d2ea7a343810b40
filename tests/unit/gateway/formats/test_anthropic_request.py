"""What an Anthropic client sends, and what a chat provider gets to read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from runner.gateway.formats import Json, thinking
from runner.gateway.formats.anthropic_request import to_chat
from runner.gateway.formats.fields import BadField


def request(*messages: Json, **fields: Any) -> Json:
    return {"model": "kimi", "max_tokens": 100, "messages": list(messages)} | fields


def user(*blocks: Json | str) -> Json:
    return {"role": "user", "content": [text(b) if isinstance(b, str) else b for b in blocks]}


def assistant(*blocks: Json | str) -> Json:
    return user(*blocks) | {"role": "assistant"}


def text(words: str, **fields: Any) -> Json:
    return {"type": "text", "text": words} | fields


def call(id_: str, name: str = "bash", **arguments: Any) -> Json:
    return {"type": "tool_use", "id": id_, "name": name, "input": arguments}


def result(id_: str, content: Any = "done", **fields: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": id_, "content": content} | fields


def messages_of(*messages: Json, **fields: Any) -> list[Json]:
    got: list[Json] = to_chat(request(*messages, **fields))["messages"]
    return got


def test_a_request_of_claude_code_becomes_plain_chat() -> None:
    got = to_chat(
        request(
            user(text("<system-reminder>ctx</system-reminder>"), text("hi")),
            {"role": "system", "content": [text("Now plan.")]},
            system=[
                text("x-anthropic-billing-header: cc_version=2.1.0.abc; cch=36ee5;"),
                text("You are Claude Code.", cache_control={"type": "ephemeral"}),
                text("Be brief.", cache_control={"type": "ephemeral", "ttl": "1h"}),
            ],
            thinking={"type": "adaptive"},
            output_config={"effort": "high"},
            context_management={"edits": []},
            metadata={"user_id": "user_ab12_account__session_0f3c-77"},
            tools=[
                {"name": "bash", "input_schema": {"type": "object"}, "cache_control": {}},
                {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
            ],
            stream=True,
        )
    )
    assert got == {
        "model": "kimi",
        "messages": [
            {"role": "system", "content": [text("You are Claude Code."), text("Be brief.")]},
            user(text("<system-reminder>ctx</system-reminder>"), text("hi")),
            {"role": "system", "content": "Now plan."},
        ],
        "tools": [
            {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}
        ],
        "max_tokens": 100,
        "thinking": {"type": "enabled"},
        "reasoning_effort": "high",
        "user": "user_ab12_account__session_0f3c-77",
        "prompt_cache_key": "0f3c-77",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("joint", [True, False])
def test_the_billing_line_never_changes_the_prefix(joint: bool) -> None:
    def sent(mark: str) -> bytes:
        line = f"x-anthropic-billing-header: cc_version=2.1.0; cch={mark};"
        system: Any = f"{line}\n\nYou are." if joint else [text(line), text("You are.")]
        return msgspec.json.encode(to_chat(request(user("hi"), system=system)))

    assert sent("36ee5") == sent("0aaa9")
    assert b"You are." in sent("1")
    assert b"billing" not in sent("1")


def test_results_of_tools_stand_before_what_was_said_beside_them() -> None:
    got = messages_of(
        user("go"),
        assistant(call("nk-bash-c0", cmd="ls"), call("nk-bash-c1")),
        user("by the way", result("nk-bash-c1", "b"), result("nk-bash-c0", [text("a")])),
    )
    assert [m["role"] for m in got] == ["user", "assistant", "tool", "tool", "user"]
    assert got[1]["tool_calls"][0] == {
        "id": "bash:0",
        "type": "function",
        "function": {"name": "bash", "arguments": '{"cmd":"ls"}'},
    }
    assert [(m["tool_call_id"], m["content"]) for m in got[2:4]] == [
        ("bash:1", "b"),
        ("bash:0", "a"),
    ]
    assert got[4]["content"] == "by the way"


def test_results_in_several_messages_all_follow_their_call() -> None:
    got = messages_of(
        user("go"),
        assistant(call("a"), call("b")),
        {"role": "system", "content": "hurry"},
        user(result("b"), "and"),
        user(result("a")),
        assistant("ok"),
        user("more"),
    )
    assert [m["role"] for m in got] == [
        *("user", "assistant", "tool", "tool", "system", "user", "assistant", "user")
    ]


def test_an_error_of_a_tool_is_told_to_the_model() -> None:
    got = messages_of(user("go"), assistant(call("a")), user(result("a", "no", is_error=True)))
    assert got[-1]["content"] == "[tool error]\nno"


def test_an_image_in_a_result_stays_in_it() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "a/b", "data": "aGk="}}
    got = messages_of(user("go"), assistant(call("a")), user(result("a", [image])))
    assert got[-1] == {
        "role": "tool",
        "tool_call_id": "a",
        "content": [{"type": "image_url", "image_url": {"url": "data:a/b;base64,aGk="}}],
    }


def test_only_our_own_thinking_is_sent_back() -> None:
    foreign = {"type": "thinking", "thinking": "theirs", "signature": "EqQB"}
    hidden = {"type": "redacted_thinking", "data": "EmwK"}
    got = messages_of(
        user("go"),
        assistant(foreign, hidden, thinking.shown("A"), "said", thinking.hidden("B"), call("a")),
        user(result("a")),
    )
    assert got[1]["reasoning_content"] == "AB"
    assert "theirs" not in msgspec.json.encode(got).decode()


def test_an_assistant_message_of_nothing_but_foreign_thinking_is_left_out() -> None:
    foreign = {"type": "thinking", "thinking": "theirs", "signature": "EqQB"}
    assert messages_of(user("a"), assistant(foreign), user("b")) == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
    ]


def test_a_last_assistant_message_is_gone_on_from() -> None:
    assert messages_of(user("a"), assistant("The answer is"))[-1] == {
        "role": "assistant",
        "content": "The answer is",
        "partial": True,
    }


def test_a_system_message_for_one_turn_is_gone_in_the_next() -> None:
    note = {"role": "system", "content": "now", "clear_at": "next_user_message"}
    assert [m["role"] for m in messages_of(user("a"), note)] == ["user", "system"]
    later = messages_of(user("a"), note, assistant("b"), user("c"))
    assert [m["role"] for m in later] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "bash", "disable_parallel_tool_use": True},
            {
                "tool_choice": {"type": "function", "function": {"name": "bash"}},
                "parallel_tool_calls": False,
            },
        ),
        ({"type": "tool", "name": "web_search"}, {"tool_choice": "auto"}),
    ],
)
def test_a_choice_of_tools_is_kept(choice: Json, expected: Json) -> None:
    tools = [{"name": "bash", "input_schema": {"type": "object"}}]
    got = to_chat(request(user("a"), tools=tools, tool_choice=choice))
    assert {k: got[k] for k in ("tool_choice", "parallel_tool_calls") if k in got} == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"type": "enabled", "budget_tokens": 2000}, ("enabled", "low")),
        ({"type": "enabled", "budget_tokens": 31999}, ("enabled", "high")),
        ({"type": "adaptive"}, ("enabled", None)),
        ({"type": "disabled"}, ("disabled", None)),
    ],
)
def test_the_wish_to_think_is_kept(config: Json, expected: tuple[str, str | None]) -> None:
    got = to_chat(request(user("a"), thinking=config))
    assert (got["thinking"], got.get("reasoning_effort")) == ({"type": expected[0]}, expected[1])


def test_sessions_of_newer_clients_are_found_too() -> None:
    user_id = '{"device_id":"d","account_uuid":"","session_id":"5e55-10n"}'
    assert to_chat(request(user("a"), metadata={"user_id": user_id}))["prompt_cache_key"] == (
        "5e55-10n"
    )
    long = to_chat(request(user("a"), metadata={"user_id": "u" * 300}))
    assert len(long["prompt_cache_key"]) <= 64


def test_documents_reach_the_model_as_text_or_file() -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "body"}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
    got = messages_of(
        user(
            {"type": "document", "source": plain, "title": "T"},
            {"type": "document", "source": pdf},
            {"type": "hologram"},
        )
    )
    assert got[0]["content"] == [
        text("# T\n\nbody"),
        {
            "type": "file",
            "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBE"},
        },
        text("[content of type hologram was left out]"),
    ]


IMAGE = {"type": "image", "source": {"type": "url"}}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"messages": [user("a")]}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        (request(user("a"), {"role": "tool", "content": ""}), "messages.1.role"),
        (request(user("a", {"type": "text"})), "messages.0.content.1.text"),
        (request(user(IMAGE)), "messages.0.content.0.source.url"),
        (request(user({"type": "tool_result"})), "messages.0.content.0.tool_use_id"),
        (request(user(result("a", [{"type": "text"}]))), "messages.0.content.0.content.0.text"),
        (request(assistant(call("a") | {"input": []})), "messages.0.content.0.input"),
        (request(user("a"), tools=[{"name": "x"}]), "tools.0.input_schema"),
        (request(user("a"), thinking={"type": "loud"}), "thinking.type"),
        (request(user("a"), system=[{"type": "text"}]), "system.0.text"),
        (request(user("a"), stop_sequences="x"), "stop_sequences"),
        (request(user("a"), max_tokens="x"), "max_tokens"),
        (request(user("a"), temperature="x"), "temperature"),
    ],
)
def test_a_refusal_names_the_field(wrong: Json, field: str) -> None:
    with pytest.raises(BadField) as refusal:
        to_chat(wrong)
    assert refusal.value.field == field
    assert refusal.value.failure.status == 400
    assert refusal.value.failure.type == "invalid_request_error"
    assert refusal.value.failure.message.startswith(f"{field}: ")
