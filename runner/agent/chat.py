"""Messages of the chat completions API, as they are kept and sent. Pure.

A message is turned into bytes once; the bytes are journaled and sent as they are from then on, so
that every request starts with the bytes of the one before and the provider's prefix cache hits.
"""

from __future__ import annotations

import msgspec

from runner.model import Usage

MAX_TOOL_ID = 64
# Key under which arguments are kept that were not a JSON object: the API wants one sent back.
MALFORMED = "_malformed"
# Stands in a journal where a model said nothing at all.
NOTHING = b"null"
NO_OUTPUT = "(no output)"
# Stands in where the API demands reasoning and the model gave none.
NO_REASONING = "(no reasoning was given)"

_encode = msgspec.json.Encoder().encode


class Function(msgspec.Struct):
    name: str
    arguments: str


class Call(msgspec.Struct, tag_field="type", tag="function", kw_only=True):
    """One tool call; ``arguments`` is JSON text as the model wrote it."""

    id: str
    function: Function


class SystemMessage(msgspec.Struct, tag_field="role", tag="system"):
    content: str


class UserMessage(msgspec.Struct, tag_field="role", tag="user"):
    content: str


class AssistantMessage(msgspec.Struct, tag_field="role", tag="assistant", omit_defaults=True):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] = []


class ToolMessage(msgspec.Struct, tag_field="role", tag="tool"):
    tool_call_id: str
    content: str


ChatMessage = SystemMessage | UserMessage | AssistantMessage | ToolMessage
_decoder: msgspec.json.Decoder[ChatMessage] = msgspec.json.Decoder(ChatMessage)


class Reply(msgspec.Struct, frozen=True):
    """One complete answer of the model. ``finish`` is the API's ``finish_reason``."""

    text: str
    reasoning: str
    calls: tuple[Call, ...]
    finish: str
    usage: Usage | None


def encode(message: ChatMessage) -> bytes:
    return _encode(message)


def decode(raw: bytes | msgspec.Raw) -> ChatMessage:
    return _decoder.decode(raw)


def decode_assistant(raw: bytes | msgspec.Raw) -> AssistantMessage:
    """An assistant message, or an empty one for ``null``."""
    if bytes(raw) == NOTHING:
        return AssistantMessage()
    return msgspec.json.decode(raw, type=AssistantMessage)


def user(text: str) -> bytes:
    return encode(UserMessage(text))


def tool_result(call_id: str, text: str) -> bytes:
    return encode(ToolMessage(call_id, text or NO_OUTPUT))


def assistant(reply: Reply, *, demand_reasoning: bool) -> bytes:
    """The message that puts ``reply`` into the conversation; ``null`` when it says nothing.

    An answer that was cut (``length``, ``content_filter``) keeps its text but not its tool calls:
    their arguments may be half. ``demand_reasoning``: the API refuses calls without reasoning.
    """
    calls = settled(reply)
    if not reply.text and not calls:
        return NOTHING
    reasoning = reply.reasoning or (NO_REASONING if calls and demand_reasoning else None)
    return encode(AssistantMessage(reply.text or None, reasoning, list(calls)))


def settled(reply: Reply) -> tuple[Call, ...]:
    """The calls of a reply as they may be sent back: ids short and unique, arguments JSON."""
    if reply.finish in ("length", "content_filter"):
        return ()
    seen: set[str] = set()
    calls = []
    for number, call in enumerate(reply.calls):
        id_ = call.id
        if not id_ or len(id_) > MAX_TOOL_ID or id_ in seen:
            id_ = f"{call.function.name[:40]}:r{number}"
        seen.add(id_)
        arguments = call.function.arguments.strip() or "{}"
        if not is_json_object(arguments):
            arguments = _encode({MALFORMED: arguments[:500]}).decode()
        calls.append(Call(id=id_, function=Function(call.function.name, arguments)))
    return tuple(calls)


def is_json_object(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True
