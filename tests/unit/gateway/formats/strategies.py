"""Conversations in both languages, in the one form that a translation back must give again."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from runner.gateway.formats import Json, thinking
from runner.gateway.formats.anthropic_request import BILLING_LINE, ERROR_MARK

# No examples are worth more than these, and none is held to the clock of a busy machine.
properties = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda t: not t.startswith((ERROR_MARK, BILLING_LINE))
)
names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{0,15}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8)
json_values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=6), v, max_size=3),
    max_leaves=6,
)
inputs = st.dictionaries(st.text(max_size=8), json_values, max_size=3)
base64s = st.sampled_from(["aGk=", "iVBORw0KGgo="])
schemas = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(names, inputs, max_size=2)}
)


def compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# --- Anthropic -------------------------------------------------------------------------------

text_blocks = st.builds(lambda t: {"type": "text", "text": t}, words)
sources = st.one_of(
    st.builds(
        lambda m, d: {"type": "base64", "media_type": m, "data": d},
        st.sampled_from(["image/png", "image/jpeg"]),
        base64s,
    ),
    st.just({"type": "url", "url": "https://example.com/cat.png"}),
    st.just({"type": "file", "file_id": "file-1"}),
)
image_blocks = st.builds(lambda s: {"type": "image", "source": s}, sources)
pdf_blocks = st.builds(
    lambda d, t: {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": d},
        "title": t,
    },
    base64s,
    words,
)
said_blocks = st.lists(text_blocks | image_blocks | pdf_blocks, min_size=1, max_size=3)
anthropic_ids = st.from_regex(r"toolu_[a-zA-Z0-9]{1,20}", fullmatch=True) | st.builds(
    lambda n, i: f"nk-{n.replace('-', '--')}-c{i}", names, st.integers(0, 99)
)


@st.composite
def _tool_round(draw: st.DrawFn) -> list[Json]:
    ids = draw(st.lists(anthropic_ids, min_size=1, max_size=3, unique=True))
    blocks: list[Json] = []
    if reasoning := draw(st.none() | words):
        blocks.append(thinking.shown(reasoning))
    blocks += draw(st.lists(text_blocks, max_size=2))
    blocks += [
        {"type": "tool_use", "id": i, "name": draw(names), "input": draw(inputs)} for i in ids
    ]
    results: list[Json] = []
    for id_ in draw(st.permutations(ids)):
        result: Json = {"type": "tool_result", "tool_use_id": id_}
        if draw(st.booleans()):
            result["is_error"] = True
        if content := draw(st.lists(text_blocks | image_blocks, max_size=2)):
            result["content"] = content
        results.append(result)
    beside = draw(st.just([]) | said_blocks)
    return [
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": results + beside},
    ]


@st.composite
def _said_round(draw: st.DrawFn) -> list[Json]:
    blocks = [thinking.shown(draw(words))] if draw(st.booleans()) else []
    blocks += draw(st.lists(text_blocks, min_size=1, max_size=2))
    return [
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": draw(said_blocks)},
    ]


@st.composite
def _system_round(draw: st.DrawFn) -> list[Json]:
    """Words of the operator, and an answer to them."""
    return [
        {"role": "system", "content": draw(st.lists(text_blocks, min_size=1, max_size=2))},
        *draw(_said_round()),
    ]


anthropic_tools = st.lists(
    st.builds(
        lambda n, d, s: {"name": n, "description": d, "input_schema": s}, names, words, schemas
    ),
    min_size=1,
    max_size=2,
)


@st.composite
def anthropic_requests(draw: st.DrawFn) -> Json:
    request: Json = {"model": draw(names), "max_tokens": draw(st.integers(40_000, 90_000))}
    if system := draw(st.lists(text_blocks, max_size=2)):
        request["system"] = system
    rounds = draw(st.lists(_tool_round() | _said_round() | _system_round(), max_size=3))
    messages = [{"role": "user", "content": draw(said_blocks)}]
    messages += [m for r in rounds for m in r]
    if draw(st.booleans()):
        messages.append({"role": "assistant", "content": draw(st.lists(text_blocks, min_size=1))})
    request["messages"] = messages
    if draw(st.booleans()):
        request["tools"] = draw(anthropic_tools)
        if choice := draw(st.sampled_from(["", "auto", "any", "none", "tool"])):
            request["tool_choice"] = {"type": choice}
            if choice == "tool":
                request["tool_choice"]["name"] = request["tools"][0]["name"]
            if choice != "none" and draw(st.booleans()):
                request["tool_choice"]["disable_parallel_tool_use"] = True
    thinks = draw(st.sampled_from([None, None, 4096, 16384, 32768, 0]))
    if thinks == 0:
        request["thinking"] = {"type": "disabled"}
    elif thinks and request.get("tool_choice", {}).get("type") not in ("any", "tool"):
        request["thinking"] = {"type": "enabled", "budget_tokens": thinks}
    if "budget_tokens" not in request.get("thinking", {}) and draw(st.booleans()):
        request |= {"temperature": draw(st.sampled_from([0, 0.5, 1])), "top_p": 0.9}
    if draw(st.booleans()):
        request["stop_sequences"] = draw(st.lists(words, min_size=1, max_size=2))
    if draw(st.booleans()):
        request["service_tier"] = draw(st.sampled_from(["auto", "standard_only"]))
    if draw(st.booleans()):
        schema = draw(schemas)
        request["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if draw(st.booleans()):
        request["metadata"] = {"user_id": draw(words)}
    if draw(st.booleans()):
        request["stream"] = True
    return request


# --- chat ------------------------------------------------------------------------------------

chat_ids = st.builds(lambda n, i: f"{n}:{i}", names, st.integers(0, 99)) | st.from_regex(
    r"call_[a-zA-Z0-9]{1,20}", fullmatch=True
)
chat_calls = st.builds(
    lambda id_, name, input_: {
        "id": id_,
        "type": "function",
        "function": {"name": name, "arguments": compact(input_)},
    },
    chat_ids,
    names,
    inputs,
)


@st.composite
def chat_responses(draw: st.DrawFn) -> Json:
    """A whole chat completion, as a provider sends it."""
    message: Json = {"role": "assistant", "content": draw(st.none() | words), "refusal": None}
    if draw(st.booleans()):
        message["reasoning_content"] = draw(words)
    calls = draw(st.lists(chat_calls, max_size=3, unique_by=lambda c: c["id"]))
    if calls:
        message["tool_calls"] = calls
    finish = "tool_calls" if calls else draw(st.sampled_from(["stop", "length", "content_filter"]))
    cached, written, fresh, out = (draw(st.integers(0, 1000)) for _ in range(4))
    prompt = cached + written + fresh
    return {
        "id": "chatcmpl-" + draw(names),
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "kimi",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": out,
            "total_tokens": prompt + out,
            "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
            "completion_tokens_details": {"reasoning_tokens": draw(st.integers(0, out))},
        },
    }


def cut(draw: st.DrawFn, whole: str) -> list[str]:
    """A text in any pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    return [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]


@st.composite
def chunked(draw: st.DrawFn, *, interleaved: bool = False) -> tuple[Json, list[Json]]:
    """A chat completion, and chunks that say the same; tool calls by turns if ``interleaved``."""
    whole = draw(chat_responses())
    choice = whole["choices"][0]
    message = choice["message"]
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    for field in ("reasoning_content", "content"):
        deltas += [{field: piece} for piece in cut(draw, message.get(field) or "")]
    begun, rest = [], []
    for index, call in enumerate(message.get("tool_calls", [])):
        start = call | {"index": index, "function": {"name": call["function"]["name"]}}
        pieces = cut(draw, call["function"]["arguments"])
        tail = [{"index": index, "function": {"arguments": p}} for p in pieces]
        if interleaved:
            begun.append([start])
            rest.append(tail)
        else:
            deltas += [{"tool_calls": [part]} for part in [start, *tail]]
    if interleaved:
        deltas += [{"tool_calls": [part]} for part in _by_turns(draw, begun, rest)]
    head = {k: whole[k] for k in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    chunks = [head | {"choices": [{"index": 0, "delta": d}]} for d in deltas]
    last: Json = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    if draw(st.booleans()):
        chunks.append(head | {"choices": [last | {"usage": whole["usage"]}]})
    else:
        chunks.append(head | {"choices": [last]})
        chunks.append(head | {"choices": [], "usage": whole["usage"]})
    return whole, chunks


def _by_turns(draw: st.DrawFn, begun: list[list[Json]], rest: list[list[Json]]) -> list[Json]:
    queues = [a + b for a, b in zip(begun, rest, strict=True)]
    mixed: list[Json] = []
    opened = 0
    while any(queues):
        # Calls begin in their order; after that anybody's turn may be next.
        ready = [i for i, q in enumerate(queues) if q and i <= opened]
        turn = draw(st.sampled_from(ready))
        opened = max(opened, turn + 1)
        mixed.append(queues[turn].pop(0))
    return mixed
