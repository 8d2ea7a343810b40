"""A whole chat completion as an Anthropic message. Pure; the streamed one is next door.

https://docs.anthropic.com/en/api/messages#response-body
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from runner.gateway.formats import Json, outcome, thinking, toolids
from runner.gateway.formats.errors import Untranslatable, broken, stream_error, truncated
from runner.gateway.formats.fields import arguments_object

_CHAT_ID = "chatcmpl-"
_MESSAGE_ID = "msg_"


def to_anthropic(
    response: Json,
    *,
    model: str,
    stop_sequences: Collection[str] = (),
    hide_thinking: bool = False,
) -> Json:
    """The message that says the same.

    Args:
        model: the name the client asked for.
        stop_sequences: the request's, to know one that the provider reports.
        hide_thinking: reasoning goes as ``redacted_thinking``, for clients that switched it off.

    Raises:
        Untranslatable: it is an error (the provider's), cut off, or no chat completion (502).
    """
    if response.get("error") is not None:
        raise Untranslatable(stream_error(response))
    choice = _first_choice(response)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise broken("has no message")
    if choice.get("finish_reason") is None:
        raise Untranslatable(truncated())
    blocks: list[Json] = []
    if reasoning := thinking.of_chat(message):
        blocks.append(thinking.hidden(reasoning) if hide_thinking else thinking.shown(reasoning))
    if said := answer_text(message):
        blocks.append({"type": "text", "text": said})
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise broken("has tool_calls that are no list")
    id_ = str(response.get("id") or "")
    blocks += [_tool_use(call, id_, index) for index, call in enumerate(calls)]
    reason, sequence = outcome.stop_reason(
        choice, called=bool(calls), stop_sequences=stop_sequences
    )
    return {
        "id": message_id(id_),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": blocks,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": outcome.anthropic_usage(outcome.usage_of(response)),
    }


def message_id(chat_id: str) -> str:
    """``msg_…`` for a chat completion's id; an Anthropic one stays."""
    return chat_id if chat_id.startswith(_MESSAGE_ID) else _MESSAGE_ID + chat_id


def chat_id(id_: str) -> str:
    """``chatcmpl-…`` for a message's id, or what :func:`message_id` was given."""
    plain = id_.removeprefix(_MESSAGE_ID)
    return plain if plain.startswith(_CHAT_ID) else _CHAT_ID + id_


def answer_text(message: Json) -> str:
    """The text of a chat message or delta; a refusal is text too."""
    content = message.get("content")
    said = content if isinstance(content, str) else _texts(content)
    refusal = message.get("refusal")
    return said + refusal if isinstance(refusal, str) else said


def _texts(parts: Any) -> str:
    if not isinstance(parts, list):
        return ""
    texts = (p.get("text") for p in parts if isinstance(p, dict))
    return "".join(t for t in texts if isinstance(t, str))


def _first_choice(response: Json) -> Json:
    match response.get("choices"):
        case [dict() as choice, *_]:
            return choice
    raise broken("has no choices")


def _tool_use(call: Any, answer_id: str, index: int) -> Json:
    match call:
        case {"function": {"name": str() as name, **function}} if name:
            arguments = function.get("arguments")
            id_ = call.get("id") or toolids.made_up(answer_id, index)
            return {
                "type": "tool_use",
                "id": toolids.to_anthropic(str(id_)),
                "name": name,
                "input": arguments_object(arguments if isinstance(arguments, str) else ""),
            }
    raise broken("has a tool call without a name")
