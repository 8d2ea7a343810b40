"""The bytes of one request, and what each model family wants in it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

_encode = msgspec.json.Encoder().encode

Style = Literal["keep", "effort", "always", "none"]


@dataclass(frozen=True, slots=True)
class Family:
    """How a family of models is told to think, and whether it demands its reasoning back."""

    prefix: str
    style: Style
    demands_reasoning: bool


# As of 2026-11. The longest prefixes come first.
# https://platform.moonshot.ai/docs/guide/use-kimi-k2-thinking-model
FAMILIES = (
    Family("kimi-k2.7-code", "always", demands_reasoning=True),
    Family("kimi-for-coding", "keep", demands_reasoning=True),
    Family("kimi-k2.6", "keep", demands_reasoning=True),
    Family("kimi-k3", "effort", demands_reasoning=True),
    Family("k3", "effort", demands_reasoning=True),
)
UNKNOWN = Family("", "none", demands_reasoning=False)


def family_of(model: str) -> Family:
    """The family of a model id; a vendor in front (``moonshotai/kimi-k3``) is fine."""
    name = model.rsplit("/", 1)[-1]
    return next((f for f in FAMILIES if name.startswith(f.prefix)), UNKNOWN)


def thinking_fields(family: Family, *, thinking: bool) -> dict[str, object]:
    match family.style:
        case "keep" if thinking:
            return {"thinking": {"type": "enabled", "keep": "all"}}
        case "keep":
            return {"thinking": {"type": "disabled"}}
        case "effort" if thinking:
            return {"reasoning_effort": "high"}
        case _:
            return {}


def build(
    *,
    model: str,
    messages: Iterable[bytes],
    tools: bytes | None,
    thinking: bool,
    cache_key: str,
) -> bytes:
    """The body of ``POST /chat/completions``.

    ``messages`` and ``tools`` are JSON already and go in as they are: the order of keys is fixed,
    so equal conversations give equal bytes.
    """
    fields: dict[str, object] = {"model": model, "messages": msgspec.Raw(_array(messages))}
    if tools is not None:
        fields["tools"] = msgspec.Raw(tools)
    fields["stream"] = True
    fields["stream_options"] = {"include_usage": True}
    fields["prompt_cache_key"] = cache_key
    fields.update(thinking_fields(family_of(model), thinking=thinking))
    return _encode(fields)


def headers(token: str, version: str, custom: Mapping[str, str]) -> list[tuple[str, str]]:
    """Request headers; the operator's ``custom`` ones win over ours, by name in any case."""
    ours = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        "User-Agent": f"nanokimi/{version}",
    }
    theirs = {name.lower() for name in custom}
    return [(k, v) for k, v in ours.items() if k.lower() not in theirs] + list(custom.items())


def _array(items: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"
