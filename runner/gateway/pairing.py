"""Tool results directly behind their calls, one for each: what every chat API insists on. Pure.

Clients forget results (an interrupted call), repeat them, shuffle them, put words in between, or
drop the call that a result belongs to. Nothing that was said gets lost; what was never there is
named as missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runner.gateway.formats import Json
from runner.gateway.tool_ids import short_id

NO_RESULT = "(no result of this tool call was recorded)"
ORPHAN = "(result of a tool call that is no longer part of this conversation)"


@dataclass(slots=True)
class _Slot:
    """One call and its place for a result. ``asked`` is the client's id, ``id`` the one sent."""

    asked: str
    id: str
    result: Json | None = None


def paired(messages: Sequence[Any]) -> list[Any]:
    """The messages with each call's results right behind it, in the order of the calls.

    A result belongs to the nearest call before it that has its id and no result yet. A repeated
    result is dropped when it says the same; any other result without a call becomes words of the
    user. Ids become short and unique within their message.
    """
    calls: dict[int, list[_Slot]] = {}
    moved: set[int] = set()
    waiting: dict[str, deque[_Slot]] = {}
    answered: dict[str, _Slot] = {}
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        if message.get("role") == "tool":
            if _attach(message, waiting, answered):
                moved.add(index)
        elif slots := _slots(message, index):
            calls[index] = slots
            for slot in slots:
                waiting[slot.asked] = deque(s for s in slots if s.asked == slot.asked)
    out: list[Any] = []
    for index, message in enumerate(messages):
        if index in calls:
            out.append(_with_ids(message, calls[index]))
            out.extend(_results(calls[index]))
        elif index in moved:
            continue
        elif isinstance(message, dict) and message.get("role") == "tool":
            out.append(_as_user(message))
        else:
            out.append(message)
    return out


def tool_calls(message: Json) -> list[Json]:
    """The well-formed tool calls of a message; none for anything else."""
    found = message.get("tool_calls") if message.get("role") == "assistant" else None
    return [c for c in found if isinstance(c, dict)] if isinstance(found, list) else []


def _attach(message: Json, waiting: dict[str, deque[_Slot]], answered: dict[str, _Slot]) -> bool:
    """Whether the result found its call, or repeats one that did."""
    asked = _text(message.get("tool_call_id"))
    if queue := waiting.get(asked):
        slot = answered[asked] = queue.popleft()
        slot.result = message
        return True
    earlier = answered.get(asked)
    return earlier is not None and _content(earlier.result) == _content(message)


def _content(message: Json | None) -> object:
    return None if message is None else message.get("content")


def _slots(message: Json, index: int) -> list[_Slot]:
    slots: list[_Slot] = []
    taken: set[str] = set()
    for number, call in enumerate(tool_calls(message)):
        asked = _text(call.get("id"))
        id_ = short_id(asked) or f"call-{index}-{number}"
        while id_ in taken:
            id_ = short_id(f"{id_}~{number}")
        taken.add(id_)
        slots.append(_Slot(asked, id_))
    return slots


def _with_ids(message: Json, slots: list[_Slot]) -> Json:
    calls = tool_calls(message)
    ids = [slot.id for slot in slots]
    if [call.get("id") for call in calls] == ids and len(calls) == len(message["tool_calls"]):
        return message
    renamed = [{**call, "id": id_} for call, id_ in zip(calls, ids, strict=True)]
    return {**message, "tool_calls": renamed}


def _results(slots: list[_Slot]) -> Iterator[Json]:
    for slot in slots:
        if slot.result is None:
            yield {"role": "tool", "tool_call_id": slot.id, "content": NO_RESULT}
        elif slot.result.get("tool_call_id") == slot.id:
            yield slot.result
        else:
            yield {**slot.result, "tool_call_id": slot.id}


def _as_user(message: Json) -> Json:
    content = message.get("content")
    if isinstance(content, list):
        return {"role": "user", "content": [{"type": "text", "text": ORPHAN}, *content]}
    text = f"{ORPHAN}\n{content}" if isinstance(content, str) and content else ORPHAN
    return {"role": "user", "content": text}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
