"""Messages as Kimi takes them: its roles, its fields, no empty text. Pure, message by message.

What a message becomes depends on nothing that comes after it, so a growing conversation keeps its
bytes and the provider's prefix cache its hits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from runner.gateway.formats import Json
from runner.gateway.pairing import tool_calls

EMPTY_USER = "(empty message)"

# The fields that each role may have; others are dropped.
_FIELDS: Mapping[str, frozenset[str]] = {
    "system": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset(
        {"role", "content", "name", "reasoning_content", "tool_calls", "partial"}
    ),
    "tool": frozenset({"role", "content", "name", "tool_call_id"}),
}
# The fields that each kind of content part may have; kinds that are not listed stay as they are.
_PART_FIELDS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"type", "text"}),
    "image_url": frozenset({"type", "image_url"}),
    "video_url": frozenset({"type", "video_url"}),
}
_CALL_FIELDS = frozenset({"id", "type", "function"})
_FUNCTION_FIELDS = frozenset({"name", "arguments"})
# These may open a conversation; a system message behind any other has lost its place.
_OPENING = ("system", "cache")


def tidied(messages: Sequence[Any]) -> list[Any]:
    """The messages in Kimi's words.

    ``developer`` is ``system``; a system message in mid-conversation becomes marked text of the
    user at the same place. Empty text goes, and with it a message of the system or the assistant
    that has nothing else. What is no message at all stays: the provider says what is wrong.
    """
    out: list[Any] = []
    opening = True
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            out.append(message)
            opening = False
            continue
        if message["role"] == "developer":
            message = {**message, "role": "system"}
        if (tidy := _tidy(message)) is None:
            continue
        opening = opening and tidy["role"] in _OPENING
        out.append(_as_user(tidy) if tidy["role"] == "system" and not opening else tidy)
    return out


def with_prefill(messages: list[Any]) -> list[Any]:
    """A last message of the assistant is the beginning of its answer, which Kimi wants marked."""
    last = messages[-1] if messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant" or last.get("partial"):
        return messages
    return [*messages[:-1], {**last, "partial": True}]


def _tidy(message: Json) -> Json | None:
    role = message["role"]
    if role not in _FIELDS:
        return message
    out = _only(message, _FIELDS[role])
    content = _content(message.get("content"))
    match role:
        case "assistant":
            return _assistant(message, out, content)
        case "system" if content is None:
            return None
        case "user" if content is None:
            content = EMPTY_USER
        case "tool" if content is None:
            content = ""
    return _set(out, "content", content)


def _assistant(message: Json, out: Json, content: Any) -> Json | None:
    calls = [_call(c) for c in tool_calls(message) if _is_callable(c)]
    if content is None and not calls:
        return None
    out = _set(out, "content", content)
    out = _set(out, "tool_calls", calls or None)
    reasoning = message.get("reasoning_content")
    if not _is_text(reasoning):  # the name that some relays give it
        reasoning = message.get("reasoning")
    return _set(out, "reasoning_content", reasoning if _is_text(reasoning) else None)


def _is_callable(call: Json) -> bool:
    function = call.get("function")
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _call(call: Json) -> Json:
    out = _only(call, _CALL_FIELDS)
    if not isinstance(call.get("type"), str):
        out = {**out, "type": "function"}
    function = _only(call["function"], _FUNCTION_FIELDS)
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        text = "{}" if arguments is None else msgspec.json.encode(arguments).decode()
        function = {**function, "arguments": text}
    return _set(out, "function", function)


def _content(content: Any) -> Any:
    """Content without empty text; ``None`` when nothing is left."""
    if not isinstance(content, list):
        return None if content == "" else content
    parts = [p for p in map(_part, content) if p is not None]
    if not parts:
        return None
    same = len(parts) == len(content) and all(a is b for a, b in zip(parts, content, strict=True))
    return content if same else parts


def _part(part: Any) -> Any:
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return part
    if part["type"] == "refusal" and isinstance(part.get("refusal"), str):
        part = {"type": "text", "text": part["refusal"]}
    if part["type"] == "text" and part.get("text") in ("", None):
        return None
    fields = _PART_FIELDS.get(part["type"])
    return part if fields is None else _only(part, fields)


def _as_user(message: Json) -> Json:
    content = message["content"]
    if isinstance(content, list):
        open_, close = {"type": "text", "text": "<system>"}, {"type": "text", "text": "</system>"}
        return {"role": "user", "content": [open_, *content, close]}
    return {"role": "user", "content": f"<system>\n{content}\n</system>"}


def _only(value: Json, fields: frozenset[str]) -> Json:
    if value.keys() <= fields:
        return value
    return {k: v for k, v in value.items() if k in fields}


def _set(value: Json, key: str, new: Any) -> Json:
    """``value`` with ``key`` as ``new``; ``None`` takes it away; the same object when it was so."""
    if new is None:
        return {k: v for k, v in value.items() if k != key} if key in value else value
    return value if key in value and value[key] is new else {**value, key: new}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
