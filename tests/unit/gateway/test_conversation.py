"""Messages in Kimi's words: what other clients say differently comes out the same."""

from __future__ import annotations

from typing import Any

import pytest

from runner.gateway.conversation import EMPTY_USER, tidied, with_prefill

USER = {"role": "user", "content": "hello"}
CALL = {"id": "a", "type": "function", "function": {"name": "read", "arguments": "{}"}}


def one(message: dict[str, Any]) -> Any:
    """What a message after the user's becomes; ``None`` when it goes."""
    rest = tidied([USER, message])[1:]
    return rest[0] if rest else None


def test_messages_that_are_right_stay_the_same_objects() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a", "content": "ok"},
    ]
    kept = tidied(messages)
    assert kept[:2] == messages[:2]
    assert kept[1]["content"] is messages[1]["content"]
    assert kept[2]["tool_calls"] == messages[2]["tool_calls"]
    assert kept[3] is messages[3]


def test_the_developer_is_the_system() -> None:
    assert tidied([{"role": "developer", "content": "x"}]) == [{"role": "system", "content": "x"}]


def test_opening_system_messages_stay_and_later_ones_keep_their_place_as_marked_text() -> None:
    system = {"role": "system", "content": "rule"}
    parts = {"role": "system", "content": [{"type": "text", "text": "rule"}]}
    assert tidied([system, system, USER, system, parts]) == [
        system,
        system,
        USER,
        {"role": "user", "content": "<system>\nrule\n</system>"},
        {
            "role": "user",
            "content": [{"type": "text", "text": t} for t in ("<system>", "rule", "</system>")],
        },
    ]


@pytest.mark.parametrize("empty", ["", None, [], [{"type": "text", "text": ""}], [""]])
def test_empty_text_goes(empty: Any) -> None:
    calling = one({"role": "assistant", "content": empty, "tool_calls": [CALL]})
    assert calling == {"role": "assistant", "tool_calls": [CALL]}
    assert one({"role": "assistant", "content": empty}) is None
    assert one({"role": "system", "content": empty}) is None
    assert one({"role": "user", "content": empty}) == {"role": "user", "content": EMPTY_USER}
    assert one({"role": "tool", "tool_call_id": "a", "content": empty})["content"] == ""


def test_fields_that_kimi_does_not_know_are_dropped_at_every_level() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    text = {"type": "text", "text": "hello"}
    assert one({"role": "user", "content": [{**text, **mark}], **mark}) == {
        "role": "user",
        "content": [text],
    }
    noisy = {**CALL, "index": 0, "function": {**CALL["function"], "parsed_arguments": {}}}
    said = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "audio": None}
    assert one({**said, "tool_calls": [noisy]}) == {
        "role": "assistant",
        "content": "x",
        "tool_calls": [CALL],
    }


def test_parts_of_kinds_that_are_not_known_stay_for_the_provider_to_judge() -> None:
    odd = [{"type": "input_audio", "input_audio": {}}, 3, {"type": None}]
    assert one({"role": "user", "content": odd})["content"] == odd


def test_a_refusal_is_the_text_that_it_was() -> None:
    said = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert one(said)["content"] == [{"type": "text", "text": "no"}]


def test_reasoning_is_kept_under_either_of_its_names() -> None:
    said = {"role": "assistant", "content": "x"}
    named = {**said, "reasoning_content": "hm"}
    assert one(named) == named
    assert one({**said, "reasoning": "hm"}) == named
    assert one({**said, "reasoning_content": "", "reasoning": 3}) == said
    assert one({**said, "reasoning_content": {"not": "text"}}) == said


@pytest.mark.parametrize(
    ("arguments", "text"), [(None, "{}"), ({"a": 1}, '{"a":1}'), ("{}", "{}"), ("", "")]
)
def test_arguments_are_text(arguments: Any, text: str) -> None:
    call = {"id": "a", "function": {"name": "read", "arguments": arguments}}
    (sent,) = one({"role": "assistant", "tool_calls": [call]})["tool_calls"]
    assert sent == {"id": "a", "type": "function", "function": {"name": "read", "arguments": text}}


def test_a_call_of_nothing_is_no_call() -> None:
    broken = [{"id": "a"}, {"id": "b", "function": {"arguments": "{}"}}, None, 3]
    assert one({"role": "assistant", "content": "x", "tool_calls": broken}) == {
        "role": "assistant",
        "content": "x",
    }
    assert one({"role": "assistant", "content": "x", "tool_calls": []}) == {
        "role": "assistant",
        "content": "x",
    }


def test_the_beginning_of_an_answer_is_marked_as_such() -> None:
    begun = {"role": "assistant", "content": "{"}
    assert with_prefill([USER, begun]) == [USER, {**begun, "partial": True}]
    assert with_prefill([USER]) == [USER]
    assert with_prefill([]) == []


def test_what_is_no_message_at_all_passes_by() -> None:
    odd: list[Any] = [None, 3, "x", {"content": "y"}, {"role": 3}, {"role": "critic", "x": 1}]
    assert tidied(odd) == odd
