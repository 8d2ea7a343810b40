"""Whatever a client sends, what leaves is let through by the strict rules of the real API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.demo.catalog import KIMI_CODE, OPEN_PLATFORM, DemoModel
from runner.demo.rules import check_request
from runner.gateway.collector import Collector
from runner.gateway.reasoning import CallKey
from runner.gateway.repair import missing, repair
from runner.gateway.rules import prepare
from runner.gateway.thinking import ThinkingWish
from runner.gateway.tool_schemas import flavoured
from runner.settings.models import ModelFacts, shipped

Message = dict[str, Any]
Block = list[Message]

MODELS = [m for table in (OPEN_PLATFORM, KIMI_CODE) for m in table.values() if m.id != "demo-tiny"]
models = st.sampled_from(MODELS)
wishes = st.sampled_from([ThinkingWish.of(level) for level in ("", "off", "low", "max")])
texts = st.sampled_from(["", " ", "hello", "\u00e9\u2028"]) | st.text(max_size=5)
words = texts.filter(bool)
marks = st.sampled_from([{}, {"cache_control": {"type": "ephemeral"}}])
parts = st.builds(lambda text, mark: {"type": "text", "text": text, **mark}, texts, marks)
contents = texts | st.none() | st.lists(parts, max_size=3)
reasonings = st.sampled_from([{}, {"reasoning_content": ""}, {"reasoning_content": None}]) | (
    st.sampled_from(["reasoning_content", "reasoning"]).flatmap(
        lambda name: words.map(lambda text: {name: text})
    )
)
arguments = st.sampled_from(["{}", '{"a": 1.0}', "", None]) | st.dictionaries(texts, st.integers())


def said(role: str) -> st.SearchStrategy[Message]:
    return st.builds(lambda c, extra: {"role": role, "content": c, **extra}, contents, marks)


@st.composite
def calling(draw: st.DrawFn, name: str) -> Block:
    """Calls and their results: shuffled, missing, repeated, without a call, with words between."""
    ids = [f"{name}:{n}" for n in range(3)] + [f"{name}-{'x' * 70}{n}" for n in range(2)]
    asked = draw(st.lists(st.sampled_from(ids), min_size=1, max_size=4))
    calls = [
        {"id": i, "type": "function", "function": {"name": "read", "arguments": draw(arguments)}}
        for i in asked
    ]
    answered = draw(st.lists(st.sampled_from(ids), max_size=5))
    results = [{"role": "tool", "tool_call_id": i, "content": draw(contents)} for i in answered]
    between = draw(st.lists(said("user") | said("system"), max_size=1))
    rest = draw(st.permutations([*results, *between]))
    message = {"role": "assistant", "content": draw(contents), "tool_calls": calls}
    return [{**message, **draw(reasonings)}, *rest]


@st.composite
def conversations(draw: st.DrawFn) -> list[Block]:
    """Turns that may each end a request. Ids come back in later turns, as some clients do."""
    names = st.sampled_from(["a", "b", "c"])
    turn = st.one_of(
        said("user").map(lambda m: [m]),
        said("developer").map(lambda m: [m]),
        st.tuples(said("assistant"), said("user")).map(list),
        names.flatmap(calling),
    )
    opening = draw(st.lists(said("system"), max_size=2))
    return [[*opening, {"role": "user", "content": "begin"}], *draw(st.lists(turn, max_size=5))]


keywords = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["object", "string", ["string", "null"], 3]),
        "description": st.just("d") | st.none(),
        "$ref": st.sampled_from(["#", "#/$defs/A", "#/$defs/B", "https://x/y", "#/nowhere", "A"]),
        "const": st.integers(),
        "required": st.just(["a"]) | st.just([3]) | st.none(),
        "title": st.just({"$ref": "x"}),
        "$comment": st.just("x"),
    },
)


def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    nested = st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from(["a", "type", "$ref", "anyOf"]), inner),
            "items": inner | st.lists(inner, max_size=2),
            "additionalProperties": inner,
            "anyOf": st.lists(inner, max_size=3),
            "oneOf": st.lists(inner, max_size=3),
            "allOf": st.lists(inner, max_size=3) | st.none(),
            "not": inner,
            "if": inner,
            "patternProperties": st.dictionaries(st.just("x"), inner),
        },
    )
    return st.builds(lambda a, b: {**a, **b}, keywords, nested)


schemas = st.recursive(keywords | st.booleans() | st.none(), deeper, max_leaves=12)
rooted = st.builds(
    lambda root, a, b: {**root, "$defs": {"A": a, "B": b}} if isinstance(root, dict) else root,
    schemas,
    schemas,
    schemas,
)
tools = st.lists(rooted, max_size=2).map(
    lambda found: [
        {"type": "function", "function": {"name": f"read{n}", "parameters": schema}}
        for n, schema in enumerate(found)
    ]
)
options = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "n": st.integers(1, 3),
        "max_tokens": st.integers(1, 9) | st.none(),
        "max_completion_tokens": st.integers(1, 9) | st.none(),
        "stream": st.booleans(),
        "stream_options": st.just({"include_usage": True}),
        "prompt_cache_key": st.just("s") | st.none(),
        "tools": tools,
        "tool_choice": st.sampled_from(
            ["auto", "none", "required", {"type": "function", "function": {"name": "x"}}, None]
        ),
        "thinking": st.sampled_from(
            [{"type": t} for t in ("enabled", "disabled", "adaptive")]
            + [{"type": "enabled", "keep": "all", "effort": "max"}, {"budget_tokens": 3}, None]
        ),
        "reasoning_effort": st.sampled_from(["none", "low", "medium", "max", "much", None, 3]),
    },
)


def facts(model: DemoModel) -> ModelFacts:
    found = shipped().find(model.id)
    assert found is not None
    return found


def joined(blocks: list[Block]) -> list[Message]:
    return [message for block in blocks for message in block]


def sent(request: Message, model: DemoModel, wish: ThinkingWish) -> Message:
    return repair(prepare(request, facts(model), thinking=wish), facts(model), {})[0]


@settings(max_examples=300, deadline=None)
@given(conversations(), options, models, wishes)
def test_the_strict_api_lets_everything_through(
    blocks: list[Block], options: Message, model: DemoModel, wish: ThinkingWish
) -> None:
    request = {"model": model.id, "messages": joined(blocks), **options}
    assert check_request(sent(request, model, wish), model) is None


@settings(max_examples=200, deadline=None)
@given(conversations(), options, models, wishes)
def test_twice_is_once_and_what_came_in_is_not_changed(
    blocks: list[Block], options: Message, model: DemoModel, wish: ThinkingWish
) -> None:
    request = {"model": model.id, "messages": joined(blocks), **options}
    before = msgspec.json.encode(request)
    once = sent(request, model, wish)
    assert msgspec.json.encode(request) == before
    assert msgspec.json.encode(sent(once, model, wish)) == msgspec.json.encode(once)


@settings(max_examples=200, deadline=None)
@given(conversations(), models, wishes, st.data())
def test_a_conversation_that_grows_keeps_the_bytes_it_had(
    blocks: list[Block], model: DemoModel, wish: ThinkingWish, data: st.DataObject
) -> None:
    # A result that comes late belongs to its call: give each turn ids of its own.
    for number, block in enumerate(blocks):
        for message in block:
            for call in message.get("tool_calls", ()):
                call["id"] = f"{number}{call['id']}"
            if "tool_call_id" in message:
                message["tool_call_id"] = f"{number}{message['tool_call_id']}"
    cut = data.draw(st.integers(1, len(blocks)))
    short, long = (
        msgspec.json.encode(sent({"messages": joined(b)}, model, wish)["messages"])
        for b in (blocks[:cut], blocks)
    )
    assert long.startswith(short[:-1])


@settings(max_examples=200, deadline=None)
@given(rooted)
def test_a_schema_is_flavoured_once_and_for_all(schema: Any) -> None:
    once = flavoured(schema)
    assert flavoured(once) == once


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(words.filter(str.strip), st.integers(1, 3)), max_size=6), models)
def test_a_client_that_drops_all_reasoning_gets_all_of_it_back(
    steps: list[tuple[str, int]], model: DemoModel
) -> None:
    remembered: dict[CallKey, str] = {}
    kept: list[Message] = [{"role": "user", "content": "begin"}]
    number = 0
    for reasoning, calls in steps:
        ids = [f"read:{number + n}" for n in range(calls)]
        number += calls
        message = {
            "role": "assistant",
            "content": None,
            "reasoning_content": reasoning,
            "tool_calls": [
                {"id": i, "type": "function", "function": {"name": "read", "arguments": "{}"}}
                for i in ids
            ],
        }
        collector = Collector(sent({"messages": kept}, model, ThinkingWish()))
        collector.feed({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
        remembered.update((t.key, t.text) for t in collector.thoughts())
        kept += [message, *({"role": "tool", "tool_call_id": i, "content": i} for i in ids)]
    dropped = [{k: v for k, v in m.items() if k != "reasoning_content"} for m in kept]
    whole, bare = (prepare({"messages": m}, facts(model)) for m in (kept, dropped))
    assert set(missing(bare, facts(model))) <= set(remembered)
    fixed, report = repair(bare, facts(model), remembered)
    assert report.placeholders == 0
    assert [m.get("reasoning_content") for m in fixed["messages"]] == [
        m.get("reasoning_content") for m in whole["messages"]
    ]


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(
            ["role", "content", "type", "text", "tool_calls", "id", "function", "name", "index",
             "arguments", "tool_call_id", "choices", "delta", "message", "reasoning_content"]
        ),
        inner | st.sampled_from(["assistant", "tool", "user", "system", "text", "function"]),
        max_size=5,
    ),
    max_leaves=15,
)  # fmt: skip


def _prepare(value: Any) -> None:
    for model in (*map(facts, MODELS), None):
        request = prepare({"messages": [value], "tools": [value], "thinking": value}, model)
        missing(request, model)
        repair(request, model, {})
        prepare({"messages": value, "tools": value, "tool_choice": value}, model)


def _collect(value: Any) -> None:
    collector = Collector({"messages": [value]})
    collector.feed({"choices": [value, {"delta": value, "finish_reason": "stop"}]})
    collector.feed({"choices": value})
    collector.thoughts()


@pytest.mark.parametrize("act", [_prepare, _collect, flavoured])
def test_no_json_at_all_breaks_it(act: Callable[[Any], object]) -> None:
    @settings(max_examples=200, deadline=None)
    @given(json_values)
    def check(value: Any) -> None:
        act(value)

    check()
