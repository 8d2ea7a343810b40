"""Tool results behind their calls: whatever a client sends, each call has one result."""

from __future__ import annotations

from typing import Any

from runner.gateway.pairing import NO_RESULT, ORPHAN, paired
from runner.gateway.tool_ids import MAX_TOOL_ID, short_id

USER = {"role": "user", "content": "go on"}


def called(*ids: str) -> dict[str, Any]:
    calls = [
        {"id": i, "type": "function", "function": {"name": "read", "arguments": "{}"}} for i in ids
    ]
    return {"role": "assistant", "tool_calls": calls}


def result(id_: str, content: Any = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": content}


def test_a_tidy_conversation_stays_as_it_is_object_by_object() -> None:
    messages = [USER, called("a", "b"), result("a"), result("b"), USER]
    assert all(new is old for new, old in zip(paired(messages), messages, strict=True))


def test_results_move_behind_their_call_in_the_order_of_the_calls() -> None:
    messages = [called("a", "b"), USER, result("b", "2"), called("c"), result("c"), result("a")]
    assert paired(messages) == [
        called("a", "b"), result("a"), result("b", "2"), USER, called("c"), result("c"),
    ]  # fmt: skip


def test_a_missing_result_is_named_as_missing() -> None:
    assert paired([called("a", "b"), result("b"), USER]) == [
        called("a", "b"), result("a", NO_RESULT), result("b"), USER,
    ]  # fmt: skip


def test_a_call_at_the_end_is_answered_too() -> None:
    assert paired([called("a")]) == [called("a"), result("a", NO_RESULT)]


def test_a_repeated_result_goes_and_a_different_second_one_becomes_words_of_the_user() -> None:
    messages = [called("a"), result("a"), result("a"), result("a", "other")]
    assert paired(messages) == [
        called("a"), result("a"), {"role": "user", "content": f"{ORPHAN}\nother"},
    ]  # fmt: skip


def test_a_result_without_its_call_keeps_its_words_and_images() -> None:
    image = {"type": "image_url", "image_url": {"url": "ms://1"}}
    assert paired([USER, result("x", "text"), result("y", [image]), result("z", "")]) == [
        USER,
        {"role": "user", "content": f"{ORPHAN}\ntext"},
        {"role": "user", "content": [{"type": "text", "text": ORPHAN}, image]},
        {"role": "user", "content": ORPHAN},
    ]


def test_an_id_that_is_used_again_belongs_to_the_nearest_call() -> None:
    messages = [called("a"), result("a", "1"), called("a"), result("a", "2"), USER]
    assert paired(messages) == messages
    open_ = [called("a"), USER, called("a"), result("a", "2")]
    assert paired(open_) == [
        called("a"), result("a", NO_RESULT), USER, called("a"), result("a", "2"),
    ]  # fmt: skip


def test_twin_ids_in_one_message_become_two_and_each_gets_its_result() -> None:
    call, one, two = paired([called("a", "a"), result("a", "1"), result("a", "2")])
    ids = [c["id"] for c in call["tool_calls"]]
    assert ids[0] == "a"
    assert len(set(ids)) == 2
    assert [(r["tool_call_id"], r["content"]) for r in (one, two)] == [(ids[0], "1"), (ids[1], "2")]


def test_a_call_without_an_id_gets_one_that_its_result_shares() -> None:
    nameless = called("")
    del nameless["tool_calls"][0]["id"]
    call, answer = paired([nameless, {"role": "tool", "content": "ok"}])
    assert call["tool_calls"][0]["id"] == answer["tool_call_id"] != ""
    assert "id" not in nameless["tool_calls"][0], "what came in is not changed"


def test_a_long_id_is_short_everywhere_and_can_be_turned_back() -> None:
    long = "call_" + "x" * 100
    other = "call_" + "x" * 101
    call, first, second = paired([called(long, other), result(other, "2"), result(long, "1")])
    ids = [c["id"] for c in call["tool_calls"]]
    assert ids == [short_id(long), short_id(other)]
    assert [first["tool_call_id"], second["tool_call_id"]] == ids
    assert (first["content"], second["content"]) == ("1", "2")
    assert all(len(i) <= MAX_TOOL_ID for i in ids)


def test_what_is_no_message_at_all_passes_by() -> None:
    odd: list[Any] = [None, 3, "x", [], {}, {"role": None}, {"role": "assistant", "tool_calls": 3}]
    assert paired(odd) == odd
