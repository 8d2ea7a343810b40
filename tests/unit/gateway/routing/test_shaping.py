from __future__ import annotations

import copy
from dataclasses import replace

import msgspec
import pytest

from runner.gateway.routing import Plan
from runner.gateway.routing import Route as Routed
from runner.gateway.shaping import session_of, shape
from runner.gateway.targets import Target

from .conftest import Route, entry

REQUEST = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.fixture
def target(route: Route) -> Target:
    plan = route(entry("a", "openai/x")).resolve("a")
    assert isinstance(plan, Plan)
    return plan.candidates[0].target


ROUTE = Routed("FAST", ("a",), 0.3, 500, "Be brief.")


def test_the_target_sees_its_own_id_and_the_client_keeps_its_request(target: Target) -> None:
    before = copy.deepcopy(REQUEST)
    shaped = shape(REQUEST, target)
    assert shaped == {**REQUEST, "model": "x"}
    assert shaped["messages"] is REQUEST["messages"]
    shape(REQUEST, replace(target, streaming=False, extra_body={"k": 1}), ROUTE)
    assert before == REQUEST


def test_a_routes_prompt_stands_before_the_conversation(target: Target) -> None:
    shaped = shape(REQUEST, target, ROUTE)
    assert shaped["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


def test_the_request_wins_over_the_route_and_the_route_over_the_entry(target: Target) -> None:
    warm = replace(target, temperature=0.9)
    assert shape({**REQUEST, "temperature": 0}, warm, ROUTE)["temperature"] == 0
    assert shape(REQUEST, warm, ROUTE)["temperature"] == 0.3
    assert shape(REQUEST, warm)["temperature"] == 0.9
    assert "temperature" not in shape(REQUEST, target)


@pytest.mark.parametrize(
    ("asked", "of_route", "of_entry", "limit"),
    [(None, None, None, None), (900, None, None, 900), (900, 500, 700, 500), (900, 500, 70, 70),
     (None, None, 70, 70), (30, 500, 70, 30), (True, None, None, None)],
)  # fmt: skip
def test_the_smallest_limit_of_an_answer_counts(
    target: Target, asked: int | None, of_route: int | None, of_entry: int | None, limit: int | None
) -> None:
    request = REQUEST if asked is None else {**REQUEST, "max_completion_tokens": asked}
    shaped = shape(
        request, replace(target, max_tokens=of_entry), replace(ROUTE, max_tokens=of_route)
    )
    assert shaped.get("max_tokens") == limit
    assert "max_completion_tokens" not in shaped
    named = replace(target, max_tokens=of_entry, max_tokens_field="max_completion_tokens")
    shaped = shape(request, named, replace(ROUTE, max_tokens=of_route))
    assert shaped.get("max_completion_tokens") == limit


def test_one_that_cannot_stream_is_not_asked_to(target: Target) -> None:
    request = {**REQUEST, "stream_options": {"include_usage": True}}
    assert (
        not {"stream", "stream_options"} & shape(request, replace(target, streaming=False)).keys()
    )


def test_extras_of_the_entry_are_added(target: Target) -> None:
    assert shape(REQUEST, replace(target, extra_body={"top_k": 5}))["top_k"] == 5


def test_the_same_history_gives_the_same_first_bytes(target: Target) -> None:
    def body(*said: str) -> bytes:
        messages = [{"role": "user", "content": text} for text in said]
        return msgspec.json.encode(
            shape({**REQUEST, "messages": messages}, target, ROUTE)["messages"]
        )

    assert body("one", "two").startswith(body("one")[:-1])


def test_a_conversation_is_one_session_as_it_grows() -> None:
    first = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    grown = [*first, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "go"}]
    assert session_of({"messages": first}, "g") == session_of({"messages": grown}, "g")
    assert session_of({"messages": first}, "g") != session_of({"messages": first}, "h")
    assert session_of({"messages": first}) != session_of({"messages": first[1:]})


def test_what_the_client_calls_its_session_comes_first() -> None:
    one = session_of({"prompt_cache_key": "k", "messages": [{"role": "user", "content": "a"}]})
    assert one == session_of({"prompt_cache_key": "k", "messages": []})
    assert session_of({"user": "u", "messages": []}) == session_of({"user": "u"})


@pytest.mark.parametrize("messages", [None, [], "x", 3])
def test_a_request_without_a_conversation_has_no_session(messages: object) -> None:
    assert session_of({"messages": messages}) == ""
