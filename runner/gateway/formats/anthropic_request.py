"""An Anthropic Messages request as a chat completions request. Pure, and stable byte for byte.

https://docs.anthropic.com/en/api/messages, also with ``?beta=true``. Fields are carried over by
the tables and functions below. What chat has no word for is left out: ``top_k``, ``cache_control``
(caching is by prefix on the other side), ``container``, ``mcp_servers``, ``context_management``,
``inference_geo``, ``speed``, ``betas``, and tools that only Anthropic's servers can run.

Two things depend on who is behind it: :func:`to_chat` keeps ``system`` messages where they stand
and images inside tool results, because chat can say both; a provider that refuses them gets them
moved by its own rules.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from runner.gateway.formats import Json, content, thinking, toolids
from runner.gateway.formats.fields import (
    BadField,
    an_object,
    arguments_text,
    maybe_list,
    maybe_object,
    maybe_text,
    text,
)

# Claude Code puts this line before its system text, new in each request: no prefix would ever be
# the same twice.
BILLING_LINE = "x-anthropic-billing-header:"
# Stands before a tool's error; chat has no field for it.
ERROR_MARK = "[tool error]\n"
MAX_CACHE_KEY = 64
_KEPT = ("temperature", "top_p")
_TIERS = {"auto": "auto", "standard_only": "default"}
_THINKING = {
    "enabled": "enabled",
    "adaptive": "enabled",
    "between_tools": "enabled",
    "disabled": "disabled",
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_SESSION = re.compile(r"""(?:_session_|"session_id"\s*:\s*")([A-Za-z0-9_.:-]+)""")


def to_chat(request: Json) -> Json:
    """The chat request that says the same.

    ``stream`` asks for usage too, because Anthropic clients always get it.

    Raises:
        BadField: 400, with the path of the field that is missing or wrong.
    """
    result: Json = {"model": text(request, "model")}
    result["messages"] = _system(request.get("system")) + _messages(request)
    if tools := _tools(request):
        result["tools"] = tools
        result |= _tool_choice(request, {t["function"]["name"] for t in tools})
    if (limit := request.get("max_tokens")) is not None:
        if not isinstance(limit, int) or isinstance(limit, bool):
            raise BadField("max_tokens", "must be a number of tokens")
        result["max_tokens"] = limit
    result |= _sampling(request)
    result |= _thinking_fields(request)
    result |= _format(request)
    result |= _caller(request)
    if request.get("stream"):
        result |= {"stream": True, "stream_options": {"include_usage": True}}
    return result


def _sampling(request: Json) -> Json:
    result: Json = {}
    for field in _KEPT:
        if (value := request.get(field)) is not None:
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise BadField(field, "must be a number")
            result[field] = value
    stops = maybe_list(request, "stop_sequences")
    if not all(isinstance(s, str) for s in stops):
        raise BadField("stop_sequences", "must be a list of strings")
    if stops:
        result["stop"] = list(stops)
    if (tier := _TIERS.get(maybe_text(request, "service_tier") or "")) is not None:
        result["service_tier"] = tier
    return result


def _thinking_fields(request: Json) -> Json:
    """``thinking`` as Kimi names it, and an effort where one was asked for.

    A budget in tokens has no word in chat; its size stands for an effort.
    """
    result: Json = {}
    config = maybe_object(request, "thinking") or {}
    effort = maybe_text(maybe_object(request, "output_config") or {}, "effort")
    if config:
        try:
            kind = text(config, "type")
        except BadField as e:
            raise e.inside("thinking") from None
        if kind not in _THINKING:
            raise BadField("thinking.type", f"must be one of {', '.join(_THINKING)}")
        result["thinking"] = {"type": _THINKING[kind]}
        budget = config.get("budget_tokens")
        if effort is None and kind == "enabled" and isinstance(budget, int):
            effort = "low" if budget <= 4096 else "medium" if budget <= 16384 else "high"
    if effort is not None:
        result["reasoning_effort"] = effort
    return result


def _format(request: Json) -> Json:
    config = maybe_object(request, "output_config") or {}
    wanted = maybe_object(config, "format") or maybe_object(request, "output_format") or {}
    if wanted.get("type") != "json_schema" or not isinstance(wanted.get("schema"), dict):
        return {}
    schema = {"name": "answer", "schema": wanted["schema"], "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _caller(request: Json) -> Json:
    """Who asks, and the session for the provider's cache: Claude Code names both in one text."""
    user = maybe_text(maybe_object(request, "metadata") or {}, "user_id")
    if not user:
        return {}
    found = _SESSION.search(user)
    key = found[1] if found else user
    if len(key) > MAX_CACHE_KEY:
        key = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return {"user": user, "prompt_cache_key": key}


def _system(value: Any) -> list[Json]:
    parts = []
    for part in content.blocks_to_parts(value, "system"):
        if part["type"] == "text":
            part = {"type": "text", "text": _without_billing(part["text"])}
            if not part["text"]:
                continue
        parts.append(part)
    return [{"role": "system", "content": content.to_chat(parts)}] if parts else []


def _without_billing(value: str) -> str:
    if not value.startswith(BILLING_LINE):
        return value
    return value.partition("\n")[2].lstrip("\n")


def _messages(request: Json) -> list[Json]:
    messages = request.get("messages")
    if not isinstance(messages, list):
        raise BadField("messages", "a list is required")
    last_user = max(
        (i for i, m in enumerate(messages) if isinstance(m, dict) and m.get("role") == "user"),
        default=-1,
    )
    result: list[Json] = []
    # Where results of tools go: behind the call, before what users say in the same turn.
    results_end = 0
    for index, raw in enumerate(messages):
        try:
            message = an_object(raw, "role")
            match text(message, "role"):
                case "user":
                    results, said = _user(message)
                    result[results_end:results_end] = results
                    results_end += len(results)
                    result += said
                case "assistant":
                    result += _assistant(message)
                    results_end = len(result)
                case "system":
                    if not (message.get("clear_at") == "next_user_message" and last_user > index):
                        result += _mid_system(message)
                case role:
                    raise BadField("role", f"{role} is not user, assistant or system")
        except BadField as e:
            raise e.inside("messages", index) from None
    if not result:
        raise BadField("messages", "at least one message with content is required")
    last = result[-1]
    if last["role"] == "assistant" and "tool_calls" not in last:
        # Anthropic goes on from a last assistant message; Kimi calls that partial mode.
        result[-1] = last | {"partial": True}
    return result


def _mid_system(message: Json) -> list[Json]:
    parts = content.blocks_to_parts(message.get("content"))
    return [{"role": "system", "content": content.to_chat(parts)}] if parts else []


def _user(message: Json) -> tuple[list[Json], list[Json]]:
    """The tool messages, and the user message, of one user turn."""
    blocks = message.get("content")
    if not isinstance(blocks, list):
        parts = content.blocks_to_parts(blocks)
        return [], _said("user", parts)
    results: list[Json] = []
    parts = []
    for index, raw in enumerate(blocks):
        try:
            block = an_object(raw, "type")
            if block.get("type") == "tool_result":
                results.append(_tool_result(block))
            else:
                parts += content.block_to_parts(block)
        except BadField as e:
            raise e.inside("content", index) from None
    return results, _said("user", parts)


def _said(role: str, parts: list[Json]) -> list[Json]:
    return [{"role": role, "content": content.to_chat(parts)}] if parts else []


def _tool_result(block: Json) -> Json:
    id_ = toolids.to_chat(text(block, "tool_use_id"))
    parts = content.blocks_to_parts(block.get("content"))
    if block.get("is_error") is True:
        words = ""
        if parts and parts[0]["type"] == "text":
            words, parts = parts[0]["text"], parts[1:]
        parts = [{"type": "text", "text": ERROR_MARK + words}, *parts]
    return {"role": "tool", "tool_call_id": id_, "content": content.to_chat(parts) or ""}


def _assistant(message: Json) -> list[Json]:
    blocks = message.get("content")
    if not isinstance(blocks, list):
        return _said("assistant", content.blocks_to_parts(blocks))
    parts: list[Json] = []
    reasoning: list[str] = []
    calls: list[Json] = []
    for index, raw in enumerate(blocks):
        try:
            block = an_object(raw, "type")
            match text(block, "type"):
                case "tool_use":
                    calls.append(_call(block))
                case "thinking" | "redacted_thinking":
                    if (ours := thinking.ours(block)) is not None:
                        reasoning.append(ours)
                case "text" | "image" | "document":
                    parts += content.block_to_parts(block)
                case _:
                    pass  # done by Anthropic's servers; the texts around it tell what came of it
        except BadField as e:
            raise e.inside("content", index) from None
    if not parts and not calls:
        return []
    result: Json = {"role": "assistant", "content": content.to_chat(parts)}
    if reasoning:
        result["reasoning_content"] = "".join(reasoning)
    if calls:
        result["tool_calls"] = calls
    return [result]


def _call(block: Json) -> Json:
    name = text(block, "name")
    arguments = arguments_text(maybe_object(block, "input") or {})
    return {
        "id": toolids.to_chat(text(block, "id")),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _tools(request: Json) -> list[Json]:
    result = []
    for index, raw in enumerate(maybe_list(request, "tools")):
        try:
            tool = an_object(raw, "name")
            if maybe_text(tool, "type") in (None, "custom"):
                result.append({"type": "function", "function": _function(tool)})
        except BadField as e:
            raise e.inside("tools", index) from None
    return result


def _function(tool: Json) -> Json:
    function: Json = {"name": text(tool, "name")}
    if description := maybe_text(tool, "description"):
        function["description"] = description
    function["parameters"] = an_object(tool.get("input_schema"), "input_schema")
    if isinstance(strict := tool.get("strict"), bool):
        function["strict"] = strict
    return function


def _tool_choice(request: Json, names: set[str]) -> Json:
    choice = maybe_object(request, "tool_choice")
    if choice is None:
        return {}
    try:
        result: Json = _choice(choice, names)
    except BadField as e:
        raise e.inside("tool_choice") from None
    if choice.get("disable_parallel_tool_use") is True:
        result["parallel_tool_calls"] = False
    return result


def _choice(choice: Json, names: set[str]) -> Json:
    kind = text(choice, "type")
    if kind in _CHOICES:
        return {"tool_choice": _CHOICES[kind]}
    if kind != "tool":
        raise BadField("type", f"must be tool or one of {', '.join(_CHOICES)}")
    name = text(choice, "name")
    if name not in names:
        return {"tool_choice": "auto"}  # one that was left out, or never was
    return {"tool_choice": {"type": "function", "function": {"name": name}}}
