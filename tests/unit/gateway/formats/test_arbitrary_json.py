"""Whatever arrives is an answer or a refusal that names its field; nothing else is ever raised."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from runner.gateway.failure import GatewayFailure
from runner.gateway.formats import Json
from runner.gateway.formats.anthropic_request import to_chat
from runner.gateway.formats.anthropic_response import to_anthropic
from runner.gateway.formats.anthropic_stream import ChatToAnthropicStream
from runner.gateway.formats.chat_response import to_chat_response
from runner.gateway.formats.chat_stream import AnthropicToChatStream
from runner.gateway.formats.chat_to_anthropic import Dialect, to_anthropic_request
from runner.gateway.formats.errors import Untranslatable
from runner.gateway.formats.tokens import estimate

from .strategies import anthropic_requests, chat_responses, chunked, properties, scalars

# The APIs' own words, so that arbitrary JSON gets past the first check.
WORDS = """
type role content text model messages system tools tool_choice tool_calls tool_use id name
tool_result tool_use_id tool_call_id input function arguments thinking signature data
redacted_thinking image image_url source url base64 file_id document file user assistant tool
choices message delta index finish_reason stop_reason stop usage error title refusal
reasoning_content content_block message_start content_block_start content_block_delta
content_block_stop message_delta input_json_delta partial_json text_delta thinking_blocks
metadata user_id output_config format schema json_schema response_format max_tokens effort
"""
keys = st.sampled_from(WORDS.split())
values = st.recursive(
    scalars | keys | st.just(0),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(keys, v, max_size=5),
    max_leaves=20,
)
objects = st.dictionaries(keys, values, max_size=6)


@st.composite
def damaged(draw: st.DrawFn, wholes: st.SearchStrategy[Any]) -> Any:
    """Something right with one thing in it replaced by something else, at any depth."""
    whole = copy.deepcopy(draw(wholes))  # strategies share what they draw
    value = whole
    while True:
        inside = (
            list(value.items()) if isinstance(value, dict)
            else list(enumerate(value)) if isinstance(value, list) else []
        )  # fmt: skip
        deeper = [(k, v) for k, v in inside if isinstance(v, dict | list) and v]
        if deeper and draw(st.integers(0, 3)):
            value = draw(st.sampled_from(deeper))[1]
            continue
        if inside:
            value[draw(st.sampled_from(inside))[0]] = draw(values)
        return whole


def refusal_of(translate: Callable[[Json], Json], value: Json) -> GatewayFailure | None:
    try:
        msgspec.json.encode(translate(value))
    except Untranslatable as refusal:
        return refusal.failure
    return None


def is_refused_by_field(failure: GatewayFailure) -> bool:
    field, mark, problem = failure.message.partition(": ")
    return failure.status == 400 and bool(field and mark and problem)


@properties
@given(objects | damaged(anthropic_requests()))
def test_any_request_is_translated_or_refused_by_field(request: Json) -> None:
    failure = refusal_of(to_chat, request)
    assert failure is None or is_refused_by_field(failure)


@properties
@given(objects | damaged(anthropic_requests().map(to_chat)), st.booleans())
def test_any_chat_request_is_translated_or_refused_by_field(request: Json, able: bool) -> None:
    dialect = Dialect(verifies_signatures=able, system_messages=able)
    failure = refusal_of(lambda r: to_anthropic_request(r, dialect), request)
    assert failure is None or is_refused_by_field(failure)
    assert estimate(request) >= 0


@properties
@given(objects | damaged(chat_responses()))
def test_any_chat_answer_is_translated_or_a_failure(response: Json) -> None:
    failure = refusal_of(lambda r: to_anthropic(r, model="m"), response)
    assert failure is None or failure.status >= 400


@properties
@given(objects | damaged(chat_responses().map(lambda r: to_anthropic(r, model="m"))))
def test_any_message_is_translated_or_a_failure(response: Json) -> None:
    failure = refusal_of(lambda r: to_chat_response(r, model="m", created=0), response)
    assert failure is None or failure.status >= 400


def _events(chunks: list[Json]) -> list[Json]:
    stream = ChatToAnthropicStream(model="m")
    return [e for c in chunks for e in stream.feed(c)] + stream.end()


@properties
@given(st.lists(objects, max_size=4) | damaged(chunked(interleaved=True).map(lambda c: c[1])))
def test_any_chunks_end_with_a_stop_or_an_error(chunks: list[Any]) -> None:
    events = _events([c for c in chunks if isinstance(c, dict)])
    assert events[-1]["type"] in ("message_stop", "error")
    msgspec.json.encode(events)


@properties
@given(st.lists(objects, max_size=4) | damaged(chunked().map(lambda c: _events(c[1]))))
def test_any_events_end_with_a_reason_or_an_error(events: list[Any]) -> None:
    stream = AnthropicToChatStream(model="m", created=0)
    chunks = [c for e in events if isinstance(e, dict) for c in stream.feed(e)] + stream.end()
    last = chunks[-1]
    assert "error" in last or last["choices"][0]["finish_reason"]
    msgspec.json.encode(chunks)


def test_arguments_of_any_depth_are_no_trouble() -> None:
    deep = 5_000
    arguments = '{"a":' * deep + "1" + "}" * deep
    function = {"name": "f", "arguments": arguments}
    message = {"tool_calls": [{"id": "a", "function": function}]}
    choice = {"message": message, "finish_reason": "tool_calls"}
    (block,) = to_anthropic({"id": "1", "choices": [choice]}, model="m")["content"]
    assert list(block["input"]) == ["_malformed"]
