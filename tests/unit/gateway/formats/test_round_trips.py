"""There and back: what the other format can say survives."""

from __future__ import annotations

import copy

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from runner.gateway.formats import Json
from runner.gateway.formats.anthropic_request import to_chat
from runner.gateway.formats.anthropic_response import to_anthropic
from runner.gateway.formats.chat_response import to_chat_response
from runner.gateway.formats.chat_to_anthropic import Dialect, to_anthropic_request

from .strategies import anthropic_requests, chat_responses, properties

DIALECT = Dialect(system_messages=True)


@properties
@given(anthropic_requests())
def test_an_anthropic_request_survives_chat(request: Json) -> None:
    assert to_anthropic_request(to_chat(request), DIALECT) == request


@properties
@given(anthropic_requests())
def test_a_chat_request_survives_anthropic(request: Json) -> None:
    chat = to_chat(request)
    back = to_chat(to_anthropic_request(chat, DIALECT))
    assert msgspec.json.encode(back) == msgspec.json.encode(chat)


@properties
@given(chat_responses())
def test_an_answer_survives_anthropic(response: Json) -> None:
    message = to_anthropic(response, model="kimi")
    back = to_chat_response(message, model="kimi", created=response["created"])
    assert back == response


@properties
@given(anthropic_requests(), chat_responses())
def test_a_translation_leaves_its_input_alone(request: Json, response: Json) -> None:
    kept = copy.deepcopy((request, response))
    chat = to_chat(request)
    chat_kept = copy.deepcopy(chat)
    to_anthropic_request(chat)
    message = to_anthropic(response, model="m")
    message_kept = copy.deepcopy(message)
    to_chat_response(message, model="m", created=0)
    assert (request, response) == kept
    assert (chat, message) == (chat_kept, message_kept)


@properties
@given(anthropic_requests(), st.data())
def test_a_longer_history_begins_with_the_bytes_of_the_shorter(
    request: Json, data: st.DataObject
) -> None:
    messages = request["messages"]
    ends = [i for i, m in enumerate(messages, 1) if m["role"] == "user"]
    shorter = request | {"messages": messages[: data.draw(st.sampled_from(ends))]}
    begun, whole = (to_chat(r)["messages"] for r in (shorter, request))
    assert msgspec.json.encode(whole).startswith(msgspec.json.encode(begun)[:-1])
