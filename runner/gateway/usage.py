"""Reads usage out of answers and streams of both APIs. Pure; what is missing stays missing.

For a stream, carry the raw usage from event to event with :func:`chat_stream` or
:func:`messages_stream` (start with ``None``), and turn it into tokens at its end::

    seen = None
    for chunk in chunks:
        seen = chat_stream(seen, chunk)
    tokens = chat_tokens(seen)

Providers that speak chat completions count cached tokens into ``prompt_tokens`` and reasoning into
``completion_tokens``; Anthropic's count caches apart. ``Tokens`` keeps them apart.
"""

from __future__ import annotations

from typing import Any

from runner.calls import Tokens
from runner.gateway.formats import Json

MAX_TOKENS = 10**9
"""A count above this is not a report of one call but a broken number, and is taken as missing."""


def chat_usage(answer: Json) -> Tokens:
    """Of a whole chat completion."""
    return chat_tokens(chat_stream(None, answer))


def messages_usage(answer: Json) -> Tokens:
    """Of a whole Anthropic message."""
    return messages_tokens(_table(answer, "usage"))


def chat_stream(seen: Json | None, chunk: Json) -> Json | None:
    """The raw usage after one more chunk.

    It sits in ``choices[0].usage`` of the last chunk, or in a final one with empty ``choices``;
    where several chunks have some, later numbers replace earlier ones.
    """
    choices = chunk.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        seen = _merge(seen, choices[0].get("usage"))
    return _merge(seen, chunk.get("usage"))


def messages_stream(seen: Json | None, event: Json) -> Json | None:
    """The raw usage after one more event.

    ``message_start`` tells the input; its ``output_tokens`` are those written so far and no result,
    so output counts only once a ``message_delta`` has told it.
    """
    match event.get("type"):
        case "message_start":
            usage = _table(_table(event, "message"), "usage")
            return _merge(seen, {k: v for k, v in usage.items() if k != "output_tokens"})
        case "message_delta":
            return _merge(seen, event.get("usage"))
    return seen


def chat_tokens(usage: Json | None) -> Tokens:
    """Raw usage of a chat completion as tokens."""
    if not usage:
        return Tokens()
    of_prompt = _table(usage, "prompt_tokens_details")
    of_answer = _table(usage, "completion_tokens_details")
    prompt = _count(usage.get("prompt_tokens"))
    cached = _first(
        usage.get("cached_tokens"),
        of_prompt.get("cached_tokens"),
        usage.get("cache_read_input_tokens"),
        usage.get("prompt_cache_hit_tokens"),
    )
    cache_write = _first(
        of_prompt.get("cache_write_tokens"),
        of_prompt.get("cache_creation_tokens"),
        usage.get("cache_creation_input_tokens"),
    )
    output = _count(usage.get("completion_tokens"))
    reasoning = _first(of_answer.get("reasoning_tokens"), usage.get("reasoning_tokens"))
    if output is not None and reasoning and _reasoning_is_apart(usage, prompt, output, reasoning):
        output += reasoning
    if prompt is not None:
        # Less than its caches: this provider counts them apart already.
        rest = prompt - (cached or 0) - (cache_write or 0)
        prompt = rest if rest >= 0 else prompt
    return Tokens(prompt, cached, cache_write, output, reasoning)


def messages_tokens(usage: Json | None) -> Tokens:
    """Raw usage of an Anthropic message as tokens. Its reasoning is not told apart from output."""
    if not usage:
        return Tokens()
    cache_write = _count(usage.get("cache_creation_input_tokens"))
    if cache_write is None:
        by_lifetime = [_count(n) for n in _table(usage, "cache_creation").values()]
        known = [n for n in by_lifetime if n is not None]
        cache_write = sum(known) if known else None
    return Tokens(
        input=_count(usage.get("input_tokens")),
        cached=_count(usage.get("cache_read_input_tokens")),
        cache_write=cache_write,
        output=_count(usage.get("output_tokens")),
    )


def _reasoning_is_apart(usage: Json, prompt: int | None, output: int, reasoning: int) -> bool:
    """Whether ``completion_tokens`` leaves reasoning out: the provider's own total says so."""
    if reasoning > output:
        return True
    return prompt is not None and _count(usage.get("total_tokens")) == prompt + output + reasoning


def _merge(seen: Json | None, more: Any) -> Json | None:
    if not isinstance(more, dict) or not more:
        return seen
    new = {k: v for k, v in more.items() if v is not None}
    return {**seen, **new} if seen else new


def _table(raw: Json, key: str) -> Json:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _first(*values: Any) -> int | None:
    return next((n for n in map(_count, values) if n is not None), None)


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
        return value
    return None
