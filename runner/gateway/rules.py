"""A request as its model takes it: parameters, messages and tools by the rules of its family. Pure.

For a model without a family nothing changes but what every API of this kind insists on: results
directly behind their calls, and no option whose companion is missing. Doing it twice changes
nothing, and a conversation that has grown by a turn keeps the bytes it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.gateway.conversation import tidied, with_prefill
from runner.gateway.formats import Json
from runner.gateway.pairing import paired
from runner.gateway.thinking import ThinkingWish, is_thinking, with_thinking
from runner.gateway.tool_schemas import with_flavour
from runner.settings.models import Family, ModelFacts

_USUAL = ThinkingWish()
_LIMITS = ("max_tokens", "max_completion_tokens")

# Options that mean nothing without the one they belong to.
_COMPANIONS: Mapping[str, str] = {
    "stream_options": "stream",
    "tool_choice": "tools",
    "parallel_tool_calls": "tools",
}
# Fields that only OpenAI's own service knows.
_FOREIGN = frozenset(
    {
        "audio",
        "metadata",
        "modalities",
        "prediction",
        "service_tier",
        "store",
        "verbosity",
        "web_search_options",
    }
)


def prepare(request: Json, facts: ModelFacts | None, *, thinking: ThinkingWish = _USUAL) -> Json:
    """The request that may be sent to the model; ``thinking`` is the operator's wish.

    Args:
        request: a chat completion request of any client; it is not changed.
        facts: what is known about the model, ``None`` for nothing.
    """
    family = facts.family if facts is not None else None
    if family is None:
        return _with_messages(_without_lonely_options(request), kimi=False)
    out = with_thinking(request, family, thinking)
    out = _with_options(out, family)
    out = _with_tools(out, thinking=is_thinking(out, family))
    return _with_messages(_without_lonely_options(out), kimi=True)


def _with_messages(request: Json, *, kimi: bool) -> Json:
    messages = request.get("messages")
    if not isinstance(messages, list):
        return request
    if kimi:
        return {**request, "messages": with_prefill(paired(tidied(messages)))}
    return {**request, "messages": paired(messages)}


def _without_lonely_options(request: Json) -> Json:
    lonely = {k for k, other in _COMPANIONS.items() if k in request and not request.get(other)}
    if not request.get("tools"):
        lonely.add("tools")
    return {k: v for k, v in request.items() if k not in lonely} if lonely else request


def _with_options(request: Json, family: Family) -> Json:
    dropped = _FOREIGN.union(family.fixed_sampling)
    limit = next((request[k] for k in _limits(family) if request.get(k) is not None), None)
    out: Json = {}
    for key, value in request.items():
        if key in _LIMITS:
            if limit is not None:
                out[family.output_limit] = limit
        elif key not in dropped:
            out[key] = value
    if not isinstance(out.get("prompt_cache_key", ""), str):
        del out["prompt_cache_key"]
    return out


def _limits(family: Family) -> tuple[str, ...]:
    """The family's own parameter first: it counts when a caller set both."""
    return (family.output_limit, *(k for k in _LIMITS if k != family.output_limit))


def _with_tools(request: Json, *, thinking: bool) -> Json:
    out = request
    if isinstance(tools := request.get("tools"), list):
        out = {**out, "tools": with_flavour(tools)}
    if "tool_choice" in request:
        out = {**out, "tool_choice": _tool_choice(request["tool_choice"], thinking=thinking)}
    return out


def _tool_choice(choice: Any, *, thinking: bool) -> Any:
    """Nothing can be forced while the model thinks; it then chooses by itself."""
    match choice:
        case "auto" | "none":
            return choice
        case "required" | {"type": "function", "function": {"name": str()}} if not thinking:
            return choice
        case _:
            return "auto"
