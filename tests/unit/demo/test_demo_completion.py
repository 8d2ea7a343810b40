"""A step as the API sends it, and the counts beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.demo.completion import DONE, Completion, Counts, limited, pieces
from runner.demo.prefix_cache import PrefixCache, common_prefix
from runner.demo.script import Call, Step

COUNTS = Counts(prompt=10, cached=0, completion=5, reasoning=2)


def completion(step: Step, first_call: int = 0) -> Completion:
    return Completion("c1", "k3", 1, step, COUNTS, first_call)


def events(step: Step, *, include_usage: bool, first_call: int = 0) -> list[dict[str, Any]]:
    sent = list(completion(step, first_call).as_events(include_usage=include_usage))
    assert sent[-1] == DONE
    return [json.loads(event.removeprefix(b"data: ")) for event in sent[:-1]]


@given(st.text(), st.integers(0, 50))
def test_pieces_always_add_up_to_the_text(text: str, count: int) -> None:
    assert "".join(pieces(text, count)) == text


def test_usage_comes_in_a_last_chunk_without_choices_when_asked_for() -> None:
    *_, finish, last = events(Step(text="hi"), include_usage=True)
    assert "usage" not in finish["choices"][0]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 15


def test_usage_comes_inside_the_last_choice_otherwise() -> None:
    *_, last = events(Step(text="hi"), include_usage=False)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_streamed_tool_calls_are_split_and_numbered_through_the_conversation() -> None:
    step = Step(calls=(Call("read", '{"path": "a"}'), Call("bash", "{}")), finish="tool_calls")
    ids: dict[int, str] = {}
    arguments = {0: "", 1: ""}
    parts = 0
    for event in events(step, include_usage=True, first_call=3):
        for choice in event["choices"]:
            for call in choice["delta"].get("tool_calls", ()):
                parts += 1
                ids[call["index"]] = call.get("id", ids.get(call["index"]))
                arguments[call["index"]] += call["function"]["arguments"]
    assert ids == {0: "read:3", 1: "bash:4"}
    assert arguments == {0: '{"path": "a"}', 1: "{}"}
    assert parts > 4


def test_ids_never_get_longer_than_the_api_itself_allows() -> None:
    call = Call("n" * 64, "{}")
    (sent,) = json.loads(completion(Step(calls=(call,))).as_json())["choices"]
    assert len(sent["message"]["tool_calls"][0]["id"]) == 64


def test_streamed_and_whole_answers_say_the_same() -> None:
    step = Step(text="one two three", reasoning="let me see")
    streamed = events(step, include_usage=True)
    deltas = [c["delta"] for e in streamed for c in e["choices"]]
    (whole,) = json.loads(completion(step).as_json())["choices"]
    assert "".join(d.get("content", "") for d in deltas) == whole["message"]["content"]
    assert (
        "".join(d.get("reasoning_content", "") for d in deltas)
        == whole["message"]["reasoning_content"]
    )


def test_a_token_limit_cuts_the_answer_and_says_so() -> None:
    cut = limited(Step(reasoning="abcd", text="x" * 100), 3)
    assert (cut.text, cut.finish) == ("x" * 8, "length")
    assert limited(Step(text="x"), 3).finish == "stop"


@given(st.binary(max_size=200), st.binary(max_size=50), st.binary(max_size=50))
def test_the_common_prefix_is_the_longest_one(prefix: bytes, a: bytes, b: bytes) -> None:
    size = common_prefix(prefix + a, prefix + b)
    assert size >= len(prefix)
    assert (prefix + a)[:size] == (prefix + b)[:size]
    assert size == min(len(prefix + a), len(prefix + b)) or (prefix + a)[size] != (prefix + b)[size]


@pytest.mark.parametrize(("common", "cached"), [(1023, 0), (1024, 256), (2047, 256), (4096, 1024)])
def test_cached_tokens_come_in_whole_chunks_of_256(common: int, cached: int) -> None:
    cache = PrefixCache()
    cache.cached_tokens("me", "", b"a" * common + b"x")
    assert cache.cached_tokens("me", "", b"a" * common + b"y" * 9000) == cached


def test_the_cache_of_one_credential_or_key_is_not_shared() -> None:
    cache = PrefixCache()
    prompt = b"a" * 8192
    assert cache.cached_tokens("me", "s1", prompt) == 0
    assert cache.cached_tokens("me", "s1", prompt) == 2048
    assert cache.cached_tokens("you", "s1", prompt) == 0
    assert cache.cached_tokens("me", "s2", prompt) == 0
