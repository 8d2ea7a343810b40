"""A chat completions request as an Anthropic Messages request. Pure, and stable byte for byte.

For providers that speak Anthropic. What they have no word for is left out: ``n``, ``seed``,
``logprobs``, ``logit_bias``, penalties, ``modalities``, ``prediction``, ``store``, ``verbosity``,
names of participants, JSON mode without a schema, and tools that are no functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.gateway.formats import Json, content, thinking, toolids
from runner.gateway.formats.anthropic_request import ERROR_MARK
from runner.gateway.formats.fields import (
    BadField,
    an_object,
    arguments_object,
    maybe_list,
    maybe_object,
    maybe_text,
    text,
)

# Field of a chat message that keeps thinking blocks with a provider's own signature, as other
# gateways name it too. No chat provider takes it.
THINKING_BLOCKS = "thinking_blocks"
MIN_BUDGET = 1024
_BUDGETS = {
    "minimal": 1024,
    "low": 4096,
    "medium": 16384,
    "high": 32768,
    "xhigh": 65536,
    "max": 65536,
}
_TIERS = {"auto": "auto", "default": "standard_only"}
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_OPENING = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one Anthropic-speaking provider wants.

    Args:
        max_tokens: stands in where the client set no limit; Anthropic demands one.
        verifies_signatures: it refuses thinking that it has not signed itself (Anthropic does,
            relays of Kimi do not). Reasoning without its signature is then left out.
        system_messages: it takes ``system`` messages in mid-conversation; else they become words
            of the user in a ``<system-reminder>``.
    """

    max_tokens: int = 8192
    verifies_signatures: bool = False
    system_messages: bool = False


def to_anthropic_request(request: Json, dialect: Dialect | None = None) -> Json:
    """The Messages request that says the same.

    Raises:
        BadField: 400, with the path of the field that is missing or wrong.
    """
    dialect = dialect or Dialect()
    limit = request.get("max_completion_tokens") or request.get("max_tokens") or dialect.max_tokens
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise BadField("max_tokens", "must be a number of tokens")
    result: Json = {"model": text(request, "model"), "max_tokens": limit}
    system, messages = _conversation(request, dialect)
    if system:
        result["system"] = system
    result["messages"] = messages
    if tools := _tools(request):
        result["tools"] = tools
        result |= _tool_choice(request)
    result |= _thinking_fields(request, result, dialect)
    result |= _sampling(request, thinks="budget_tokens" in result.get("thinking", {}))
    result |= _format(request)
    if user := _first_text(request, "user", "safety_identifier", "prompt_cache_key"):
        result["metadata"] = {"user_id": user}
    if request.get("stream"):
        result["stream"] = True
    return result


def _sampling(request: Json, *, thinks: bool) -> Json:
    result: Json = {}
    for field in ("temperature", "top_p"):
        value = request.get(field)
        if value is None or thinks:
            continue  # sampling is fixed while a model thinks
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise BadField(field, "must be a number")
        result[field] = min(value, 1)  # chat goes up to 2
    stop = request.get("stop")
    stops = [stop] if isinstance(stop, str) else maybe_list(request, "stop")
    if not all(isinstance(s, str) for s in stops):
        raise BadField("stop", "must be a string or a list of strings")
    if stops:
        result["stop_sequences"] = list(stops)
    if (tier := _TIERS.get(maybe_text(request, "service_tier") or "")) is not None:
        result["service_tier"] = tier
    return result


def _thinking_fields(request: Json, so_far: Json, dialect: Dialect) -> Json:
    """A thinking budget, where thinking was asked for and Anthropic's rules let it be."""
    effort = maybe_text(request, "reasoning_effort")
    kind = (maybe_object(request, "thinking") or {}).get("type")
    if kind == "disabled" or effort == "none":
        return {"thinking": {"type": "disabled"}}
    if kind is None and effort is None:
        return {}
    budget = min(_BUDGETS.get(effort or "medium", _BUDGETS["medium"]), so_far["max_tokens"] - 1)
    forced = so_far.get("tool_choice", {}).get("type") in ("any", "tool")
    unsigned = dialect.verifies_signatures and _calls_unthought(so_far["messages"])
    if budget < MIN_BUDGET or forced or unsigned:
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _calls_unthought(messages: list[Json]) -> bool:
    """The turn under way has a call whose message does not begin with thinking."""
    for message in reversed(messages):
        blocks = message["content"]
        if message["role"] == "assistant":
            if any(b["type"] == "tool_use" for b in blocks):
                return not blocks[0]["type"].endswith("thinking")
            return False
        if all(b["type"] != "tool_result" for b in blocks):
            return False
    return False


def _format(request: Json) -> Json:
    wanted = maybe_object(request, "response_format") or {}
    if wanted.get("type") != "json_schema":
        return {}
    schema = (maybe_object(wanted, "json_schema") or {}).get("schema")
    if not isinstance(schema, dict):
        raise BadField("response_format.json_schema.schema", "must be an object")
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


def _first_text(request: Json, *fields: str) -> str | None:
    return next((value for f in fields if (value := maybe_text(request, f))), None)


def _conversation(request: Json, dialect: Dialect) -> tuple[list[Json], list[Json]]:
    """The opening system blocks, and the messages: results of tools first in each user turn."""
    messages = request.get("messages")
    if not isinstance(messages, list):
        raise BadField("messages", "a list is required")
    system: list[Json] = []
    result: list[Json] = []
    opening = True
    for index, raw in enumerate(messages):
        try:
            message = an_object(raw, "role")
            role = text(message, "role")
            if role in _OPENING:
                blocks = content.parts_to_blocks(message.get("content"))
                if opening:
                    system += blocks
                elif dialect.system_messages:
                    _append(result, "system", blocks)
                else:
                    _append(result, "user", _reminder(blocks))
                continue
            opening = False
            match role:
                case "user":
                    _append(result, "user", content.parts_to_blocks(message.get("content")))
                case "assistant":
                    _append(result, "assistant", _assistant(message, dialect))
                case "tool":
                    _append(result, "user", [_tool_result(message)])
                case _:
                    raise BadField("role", f"{role} is not one of Anthropic's")
        except BadField as e:
            raise e.inside("messages", index) from None
    if not result:
        raise BadField("messages", "at least one message with content is required")
    return system, result


def _append(result: list[Json], role: str, blocks: list[Json]) -> None:
    """Add to the last turn if it is the same side's, else begin a new one."""
    if not blocks:
        return
    if not result or result[-1]["role"] != role:
        result.append({"role": role, "content": blocks})
        return
    # The lists are ours: they were made in this translation.
    turn: list[Json] = result[-1]["content"]
    if blocks[0]["type"] == "tool_result":
        place = sum(b["type"] == "tool_result" for b in turn)
        turn[place:place] = blocks
    else:
        turn += blocks


def _reminder(blocks: list[Json]) -> list[Json]:
    words = content.joined(blocks)
    if not words:
        return []
    return [{"type": "text", "text": f"<system-reminder>\n{words}\n</system-reminder>"}]


def _assistant(message: Json, dialect: Dialect) -> list[Json]:
    blocks = _thoughts(message, dialect)
    blocks += content.parts_to_blocks(message.get("content"))
    if not message.get("content") and (refusal := maybe_text(message, "refusal")):
        blocks.append({"type": "text", "text": refusal})
    for index, raw in enumerate(maybe_list(message, "tool_calls")):
        try:
            blocks.append(_tool_use(an_object(raw, "function")))
        except BadField as e:
            raise e.inside("tool_calls", index) from None
    return blocks


def _thoughts(message: Json, dialect: Dialect) -> list[Json]:
    signed = [b for b in maybe_list(message, THINKING_BLOCKS) if _is_thinking(b)]
    if signed:
        return signed
    reasoning = thinking.of_chat(message)
    return [thinking.shown(reasoning)] if reasoning and not dialect.verifies_signatures else []


def _is_thinking(block: Any) -> bool:
    match block:
        case {"type": "thinking", "thinking": str(), "signature": str()}:
            return True
        case {"type": "redacted_thinking", "data": str()}:
            return True
    return False


def _tool_use(call: Json) -> Json:
    function = an_object(call.get("function"), "function")
    try:
        name, arguments = text(function, "name"), maybe_text(function, "arguments")
    except BadField as e:
        raise e.inside("function") from None
    return {
        "type": "tool_use",
        "id": toolids.to_anthropic(text(call, "id")),
        "name": name,
        "input": arguments_object(arguments or ""),
    }


def _tool_result(message: Json) -> Json:
    id_ = toolids.to_anthropic(text(message, "tool_call_id"))
    result: Json = {"type": "tool_result", "tool_use_id": id_}
    blocks = content.parts_to_blocks(message.get("content"))
    if blocks and blocks[0]["type"] == "text" and blocks[0]["text"].startswith(ERROR_MARK):
        result["is_error"] = True
        words = blocks[0]["text"].removeprefix(ERROR_MARK)
        blocks = [*([{"type": "text", "text": words}] if words else []), *blocks[1:]]
    if blocks:
        result["content"] = blocks
    return result


def _tools(request: Json) -> list[Json]:
    result = []
    for index, raw in enumerate(maybe_list(request, "tools")):
        try:
            tool = an_object(raw, "function")
            if tool.get("type", "function") == "function":
                result.append(_tool(an_object(tool.get("function"), "function")))
        except BadField as e:
            raise e.inside("tools", index) from None
    return result


def _tool(function: Json) -> Json:
    try:
        tool: Json = {"name": text(function, "name")}
        if description := maybe_text(function, "description"):
            tool["description"] = description
        schema = maybe_object(function, "parameters") or {}
    except BadField as e:
        raise e.inside("function") from None
    tool["input_schema"] = schema if "type" in schema else {"type": "object"} | schema
    if isinstance(strict := function.get("strict"), bool):
        tool["strict"] = strict
    return tool


def _tool_choice(request: Json) -> Json:
    choice: Json
    match request.get("tool_choice"):
        case None:
            choice = {"type": "auto"}
        case str() as word if word in _CHOICES:
            choice = {"type": _CHOICES[word]}
        case {"type": "function", "function": {"name": str() as name}}:
            choice = {"type": "tool", "name": name}
        case {"type": "allowed_tools", "allowed_tools": {"mode": "required"}}:
            choice = {"type": "any"}
        case {"type": "allowed_tools"}:
            choice = {"type": "auto"}
        case _:
            raise BadField("tool_choice", "must be auto, none, required or a function")
    if request.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    elif request.get("tool_choice") is None:
        return {}
    return {"tool_choice": choice}
