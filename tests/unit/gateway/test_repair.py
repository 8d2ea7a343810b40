"""Reasoning that a client dropped comes back byte for byte, and never to the wrong call."""

from __future__ import annotations

from typing import Any

import pytest

from runner.demo.catalog import KIMI_CODE
from runner.demo.rules import check_request
from runner.gateway.collector import MAX_REASONING, Collector
from runner.gateway.formats import Json
from runner.gateway.reasoning import CallKey, key_of
from runner.gateway.repair import PLACEHOLDER, RepairReport, missing, repair
from runner.settings.models import ModelFacts, shipped

USER = {"role": "user", "content": "list the files"}
REASONING = "  I should look.\n\u2028 Really\u00e9 "


def facts(model: str = "kimi-for-coding") -> ModelFacts:
    found = shipped().find(model)
    assert found is not None
    return found


def call(id_: str = "bash:0", arguments: str = '{"command":"ls"}') -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": "bash", "arguments": arguments}}


def said(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", **fields, "tool_calls": list(calls or (call(),))}


def result(id_: str = "bash:0") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": "a.txt"}


def request(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [USER, *messages], **fields}


def answer(*calls: dict[str, Any], reasoning: str = REASONING) -> dict[str, Any]:
    message = {**said(*calls), "reasoning_content": reasoning}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}


def chunks(*calls: dict[str, Any], reasoning: str = REASONING) -> list[dict[str, Any]]:
    """The same answer as a stream that splits everything it can."""

    def chunk(delta: Any, finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    out = [chunk({"role": "assistant"}), *(chunk({"reasoning_content": c}) for c in reasoning)]
    for index, c in enumerate(calls or (call(),)):
        function = {"name": c["function"]["name"], "arguments": ""}
        out.append(chunk({"tool_calls": [{**c, "index": index, "function": function}]}))
        out.extend(
            chunk({"tool_calls": [{"index": index, "function": {"arguments": a}}]})
            for a in c["function"]["arguments"]
        )
    return [*out, chunk({}, "tool_calls"), {"choices": [], "usage": {"prompt_tokens": 1}}]


def gathered(asked: dict[str, Any], *answers: dict[str, Any]) -> dict[CallKey, str]:
    collector = Collector(asked)
    for part in answers:
        collector.feed(part)
    return {t.key: t.text for t in collector.thoughts()}


def test_dropped_reasoning_is_put_back_byte_for_byte() -> None:
    remembered = gathered(request(), answer())
    back = request(said(), result())
    assert set(missing(back, facts())) == set(remembered)
    fixed, report = repair(back, facts(), remembered)
    assert fixed["messages"][1] == {**said(), "reasoning_content": REASONING}
    assert report == RepairReport(restored=1)
    assert check_request(fixed, KIMI_CODE["kimi-for-coding"]) is None


def test_a_stream_is_remembered_as_the_whole_answer_is() -> None:
    calls = (call("bash:0"), call("bash:1", '{"command":"pwd"}'))
    whole = gathered(request(), answer(*calls))
    assert gathered(request(), *chunks(*calls)) == whole
    assert len(whole) == 2


def test_parallel_calls_that_a_client_takes_apart_each_find_the_reasoning() -> None:
    calls = (call("bash:0"), call("bash:1", '{"command":"pwd"}'))
    remembered = gathered(request(), answer(*calls))
    newest = {CallKey(k.call, ""): text for k, text in remembered.items()}
    back = request(said(calls[0]), result("bash:0"), said(calls[1]), result("bash:1"))
    found = {k: newest[CallKey(k.call, "")] for k in missing(back, facts())}
    fixed, report = repair(back, facts(), found)
    assert report.restored == 2
    assert [m.get("reasoning_content") for m in fixed["messages"][1::2]] == [REASONING] * 2


def test_reasoning_never_seen_gets_a_placeholder_that_the_api_takes() -> None:
    fixed, report = repair(request(said(), result()), facts(), {})
    assert fixed["messages"][1]["reasoning_content"] == PLACEHOLDER
    assert report == RepairReport(placeholders=1)
    assert check_request(fixed, KIMI_CODE["kimi-for-coding"]) is None


def test_reasoning_that_the_client_sends_is_kept_and_a_blank_is_no_reasoning() -> None:
    remembered = gathered(request(), answer())
    mine = request(said(reasoning_content="mine"), result())
    assert repair(mine, facts(), remembered) == (mine, RepairReport(kept=1))
    assert not missing(mine, facts())
    blank = request(said(reasoning_content=" \n"), result())
    fixed, report = repair(blank, facts(), remembered)
    assert fixed["messages"][1]["reasoning_content"] == REASONING
    assert report.restored == 1


def test_what_comes_in_is_not_changed_and_twice_is_once() -> None:
    remembered = gathered(request(), answer())
    back = request(said(), result(), said(call("bash:1")), result("bash:1"))
    before = repr(back)
    once, _ = repair(back, facts(), remembered)
    assert repr(back) == before
    assert repair(once, facts(), remembered)[0] == once


@pytest.mark.parametrize(
    ("model", "fields", "repaired"),
    [
        ("kimi-k2.6", {"thinking": {"type": "disabled"}}, False),
        ("kimi-k2.6", {}, True),
        ("kimi-k2.7-code", {"thinking": {"type": "disabled"}}, True),
        ("kimi-k3", {}, True),
        ("k3", {"thinking": {"type": "disabled"}}, False),
    ],
)
def test_only_a_model_that_thinks_is_given_reasoning(
    model: str, fields: dict[str, Any], repaired: bool
) -> None:
    back = request(said(), result(), **fields)
    assert bool(missing(back, facts(model))) is repaired
    assert repair(back, facts(model), {})[1].changed is repaired


def test_models_without_facts_are_left_alone() -> None:
    back = request(said(), result())
    for model in (None, ModelFacts(id="gpt-5")):
        assert missing(back, model) == ()
        assert repair(back, model, {})[0] is back


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1,"b":[1.0,2]}', '{ "b": [1, 2.0], "a": 1 }'),
        ('{"x":"\\u00e9"}', '{"x":"\u00e9"}'),
        ("{}", " {} "),
    ],
)
def test_arguments_that_a_client_has_written_anew_are_the_same(one: str, other: str) -> None:
    assert key_of(call(arguments=one), USER) == key_of(call(arguments=other), USER)


@pytest.mark.parametrize("other", ['{"command":"rm"}', '{"command":', "", '{"command":1e999}'])
def test_calls_that_differ_in_their_arguments_are_different(other: str) -> None:
    assert key_of(call(arguments=other), USER).call != key_of(call(), USER).call
    assert key_of(call("bash:1"), USER).call != key_of(call(), USER).call


def test_the_same_call_in_answer_to_other_words_has_another_context() -> None:
    parts = [{"type": "text", "text": "list "}, {"type": "text", "text": "the files"}]
    assert key_of(call(), {"role": "user", "content": parts}) == key_of(call(), USER)
    other = key_of(call(), {"role": "user", "content": "other words"})
    assert other.call == key_of(call(), USER).call
    assert other.context != key_of(call(), USER).context


def test_an_unfinished_or_silent_or_endless_answer_is_not_remembered() -> None:
    assert not gathered(request(), *chunks()[:-2])
    assert not gathered(request(), answer(reasoning=""))
    assert not gathered(request(), answer(reasoning="x" * (MAX_REASONING + 1)))
    assert not gathered(request(), {"choices": [{"message": {"content": "hi"}}]})


def test_only_the_first_choice_counts() -> None:
    other = {"choices": [{**answer()["choices"][0], "index": 1}]}
    assert not gathered(request(), other)


@pytest.mark.parametrize(
    "odd",
    [
        {}, {"choices": None}, {"choices": [None, 3]}, {"choices": [{"delta": 3}]},
        {"choices": [{"delta": {"tool_calls": [None, {"index": "x", "function": 3}]}}]},
        {"choices": [{"delta": {"reasoning_content": 3, "tool_calls": {}}}]},
    ],
)  # fmt: skip
def test_odd_chunks_are_skipped(odd: dict[str, Any]) -> None:
    assert gathered({"messages": None}, odd) == {}
    expected = gathered(request(), answer())
    assert expected.items() <= gathered(request(), answer(), odd).items()


def test_a_call_whose_id_a_client_has_rewritten_is_the_same_call() -> None:
    def call(id_: str) -> Json:
        return {"id": id_, "function": {"name": "bash", "arguments": '{"a": 1}'}}

    before = {"role": "user", "content": "x"}
    assert key_of(call("bash:0"), before) == key_of(call("bash_0"), before)
    assert key_of(call("bash:0"), before) != key_of(call("bash:1"), before)
