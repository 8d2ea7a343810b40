"""Why an answer stopped and what it cost, in both APIs' words. Pure.

Chat counts cached tokens inside ``prompt_tokens``; Anthropic counts them beside ``input_tokens``.
"""

from __future__ import annotations

from collections.abc import Collection

from runner.gateway.formats import Json

_TO_ANTHROPIC = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_TO_CHAT = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def stop_reason(
    choice: Json, *, called: bool, stop_sequences: Collection[str]
) -> tuple[str, str | None]:
    """``stop_reason`` and ``stop_sequence`` of a finished chat choice.

    Chat has no field for the sequence that was met; the providers that tell it name it in
    ``stop_reason``. Some say ``stop`` although the model called tools: ``called`` corrects that.
    """
    finish = choice.get("finish_reason")
    sequence = choice.get("stop_reason")
    reason = _TO_ANTHROPIC.get(finish, "end_turn") if isinstance(finish, str) else "end_turn"
    if reason == "end_turn" and called:
        return "tool_use", None
    if reason == "end_turn" and isinstance(sequence, str) and sequence in stop_sequences:
        return "stop_sequence", sequence
    return reason, None


def finish_fields(reason: object, sequence: object) -> Json:
    """``finish_reason`` of a chat choice, and the stop sequence that was met, if one was."""
    finish = _TO_CHAT.get(reason, "stop") if isinstance(reason, str) else "stop"
    if reason == "stop_sequence" and isinstance(sequence, str):
        return {"finish_reason": finish, "stop_reason": sequence}
    return {"finish_reason": finish}


def usage_of(chunk: Json) -> Json | None:
    """Usage of a chat answer or chunk: at its top, or in the choice, where Kimi streams it."""
    for holder in (chunk, *_choices(chunk)):
        usage = holder.get("usage")
        if isinstance(usage, dict):
            return usage
    return None


def anthropic_usage(usage: Json | None) -> Json:
    """Anthropic's usage; a number that the provider did not tell is 0, because one must stand."""
    usage = usage or {}
    details = _object(usage, "prompt_tokens_details")
    cached = _count(usage, "cached_tokens") or _count(details, "cached_tokens") or 0
    written = _count(details, "cache_write_tokens") or 0
    result: Json = {
        "input_tokens": max((_count(usage, "prompt_tokens") or 0) - cached - written, 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": _count(usage, "completion_tokens") or 0,
    }
    reasoning = _count(_object(usage, "completion_tokens_details"), "reasoning_tokens")
    if reasoning is not None:
        result["output_tokens_details"] = {"thinking_tokens": reasoning}
    return result


def chat_usage(usage: Json) -> Json:
    """Chat's usage of Anthropic's."""
    cached = _count(usage, "cache_read_input_tokens") or 0
    written = _count(usage, "cache_creation_input_tokens") or 0
    prompt = (_count(usage, "input_tokens") or 0) + cached + written
    completion = _count(usage, "output_tokens") or 0
    result: Json = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
    }
    thinking = _count(_object(usage, "output_tokens_details"), "thinking_tokens")
    if thinking is not None:
        result["completion_tokens_details"] = {"reasoning_tokens": thinking}
    return result


def _choices(chunk: Json) -> list[Json]:
    choices = chunk.get("choices")
    return [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []


def _object(holder: Json, field: str) -> Json:
    value = holder.get(field)
    return value if isinstance(value, dict) else {}


def _count(holder: Json, field: str) -> int | None:
    value = holder.get(field)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
