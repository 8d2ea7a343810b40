"""Reasoning put back where a client left it out. Pure: what is remembered is handed in.

Kimi answers 400 "thinking is enabled but reasoning_content is missing in assistant tool call
message at index N" to a client that drops it. The way around::

    keys = missing(request, facts)
    found = await memory.recall(scope, keys) if keys else {}
    request, report = repair(request, facts, found)

on the request that :func:`~runner.gateway.rules.prepare` made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runner.gateway.formats import Json
from runner.gateway.pairing import tool_calls
from runner.gateway.reasoning import CallKey, key_of
from runner.gateway.thinking import is_thinking
from runner.settings.models import ModelFacts

# Stands in for reasoning that was never seen. The API wants something there; a blank is accepted
# and says nothing that a model could take for its own words.
PLACEHOLDER = " "


@dataclass(frozen=True, slots=True)
class RepairReport:
    """Messages with tool calls: reasoning sent by the client, put back, or never seen."""

    kept: int = 0
    restored: int = 0
    placeholders: int = 0

    @property
    def changed(self) -> bool:
        return bool(self.restored or self.placeholders)


def missing(request: Json, facts: ModelFacts | None) -> tuple[CallKey, ...]:
    """The keys of all calls whose reasoning the model will ask for and the client left out."""
    return tuple(
        key
        for _, message, before in _calling(request, facts)
        if not _has_reasoning(message)
        for key in _keys(message, before)
    )


def repair(
    request: Json, facts: ModelFacts | None, remembered: Mapping[CallKey, str]
) -> tuple[Json, RepairReport]:
    """The request with reasoning in every message that needs it; the same object if none did."""
    kept = restored = placeholders = 0
    new: dict[int, Json] = {}
    for index, message, before in _calling(request, facts):
        if _has_reasoning(message):
            kept += 1
            continue
        keys = _keys(message, before) if remembered else ()
        found = next((remembered[k] for k in keys if k in remembered), None)
        restored += found is not None
        placeholders += found is None
        new[index] = {**message, "reasoning_content": PLACEHOLDER if found is None else found}
    report = RepairReport(kept, restored, placeholders)
    if not new:
        return request, report
    messages = [new.get(index, message) for index, message in enumerate(request["messages"])]
    return {**request, "messages": messages}, report


def _calling(request: Json, facts: ModelFacts | None) -> Iterator[tuple[int, Json, object]]:
    """Each message with tool calls, its index and what it answered, if reasoning is needed."""
    family = facts.family if facts is not None else None
    messages = request.get("messages")
    if family is None or not family.needs_reasoning or not is_thinking(request, family):
        return
    before: object = None
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            continue
        if message.get("role") != "assistant":
            before = message
        elif tool_calls(message):
            yield index, message, before


def _keys(message: Json, before: object) -> tuple[CallKey, ...]:
    return tuple(key_of(call, before) for call in tool_calls(message))


def _has_reasoning(message: Json) -> bool:
    """Blank reasoning is another relay's placeholder."""
    reasoning = message.get("reasoning_content")
    return isinstance(reasoning, str) and bool(reasoning.strip())
