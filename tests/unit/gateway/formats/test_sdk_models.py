"""What we write is what the makers' own SDKs read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anthropic.types import ErrorResponse as AnthropicError
from anthropic.types import Message, MessageParam, RawMessageStreamEvent, ToolParam
from hypothesis import given
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessageParam,
    ChatCompletionToolParam,
)
from pydantic import TypeAdapter

from runner.gateway.failure import GatewayFailure
from runner.gateway.formats import Json
from runner.gateway.formats.anthropic_request import to_chat
from runner.gateway.formats.anthropic_response import to_anthropic
from runner.gateway.formats.anthropic_stream import ChatToAnthropicStream
from runner.gateway.formats.chat_response import to_chat_response
from runner.gateway.formats.chat_stream import AnthropicToChatStream
from runner.gateway.formats.chat_to_anthropic import to_anthropic_request
from runner.gateway.formats.errors import anthropic_body

from .strategies import anthropic_requests, chat_responses, chunked, properties

anthropic_message: TypeAdapter[Any] = TypeAdapter(MessageParam)
anthropic_tool: TypeAdapter[Any] = TypeAdapter(ToolParam)
chat_message: TypeAdapter[Any] = TypeAdapter(ChatCompletionMessageParam)
chat_tool: TypeAdapter[Any] = TypeAdapter(ChatCompletionToolParam)
stream_event: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def read(adapter: TypeAdapter[Any], value: Json) -> None:
    """Validate to the bottom: pydantic looks into iterables only while they are read."""
    _exhaust(adapter.validate_python(value))


def _exhaust(value: Any) -> None:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple | Iterator):
        return
    for item in value:
        _exhaust(item)


def _text_only(message: Json) -> Json:
    """Chat's types know no images in results of tools; Kimi does."""
    if message["role"] == "tool" and isinstance(message["content"], list):
        parts = [p for p in message["content"] if p["type"] == "text"]
        return message | {"content": parts}
    return message


@properties
@given(anthropic_requests())
def test_requests_are_what_the_sdks_would_send(request: Json) -> None:
    chat = to_chat(request)
    for message in chat["messages"]:
        read(chat_message, _text_only(message))
    for tool in chat.get("tools", []):
        read(chat_tool, tool)
    back = to_anthropic_request(chat)
    for message in back["messages"]:
        read(anthropic_message, message)
    for tool in back.get("tools", []):
        read(anthropic_tool, tool)


@properties
@given(chat_responses())
def test_answers_are_what_the_sdks_read(response: Json) -> None:
    message = to_anthropic(response, model="m")
    Message.model_validate(message)
    hidden = to_anthropic(response, model="m", hide_thinking=True)
    Message.model_validate(hidden)
    ChatCompletion.model_validate(to_chat_response(message, model="m", created=1))


@properties
@given(chunked())
def test_streams_are_what_the_sdks_read(said: tuple[Json, list[Json]]) -> None:
    stream = ChatToAnthropicStream(model="m")
    events = [e for c in said[1] for e in stream.feed(c)] + stream.end()
    for event in events:
        if event["type"] != "ping":  # the SDK skips it before it looks
            stream_event.validate_python(event)
    back = AnthropicToChatStream(model="m", created=1, include_usage=True)
    for chunk in [c for e in events for c in back.feed(e)] + back.end():
        ChatCompletionChunk.model_validate(chunk)


def test_errors_are_what_the_sdk_reads() -> None:
    for status in (400, 401, 402, 403, 404, 429, 500, 502, 503, 504, 529):
        AnthropicError.model_validate(anthropic_body(GatewayFailure(status, "", "no")))
