"""How a model is told to think: each family has its own parameter. Pure.

What a caller has set validly stays as it is. What they said in another API's words is translated;
only a caller who said nothing gets the operator's wish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runner.gateway.formats import Json
from runner.settings.models import Family, ThinkingStyle

Effort = Literal["low", "high", "max"]

# Words for effort in other APIs, and the nearest of ours.
_EFFORTS: Mapping[object, Effort] = {
    "minimal": "low",
    "low": "low",
    "medium": "high",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}
_OFF = ("none", "off", "disabled")
_ON = ("enabled", "adaptive", "auto")
# A model that cannot be switched off thinks as little as it can; otherwise as the vendor advises.
_LEAST: Effort = "low"
_USUAL: Effort = "high"


@dataclass(frozen=True, slots=True)
class ThinkingWish:
    """Whether to think and how hard; ``effort`` is ``None`` for the usual."""

    enabled: bool = True
    effort: Effort | None = None

    @classmethod
    def of(cls, level: str) -> ThinkingWish:
        """The wish behind a word: an effort in any API's words, ``off``, or ``""`` for the usual.

        Any other word counts as the usual.
        """
        return cls(enabled=level not in _OFF, effort=_EFFORTS.get(level))


def with_thinking(request: Json, family: Family, wish: ThinkingWish) -> Json:
    """The request with the thinking parameter that the family takes, and no other."""
    style = family.thinking
    if _is_valid(request, style):
        return request
    out = {k: v for k, v in request.items() if k not in ("thinking", "reasoning_effort")}
    out.update(_fields(style, _asked(request, wish) or wish))
    return out


def is_thinking(request: Json, family: Family) -> bool:
    """Whether the model thinks on this request."""
    if family.thinking in ("always", "effort"):
        return True
    thinking = request.get("thinking")
    return not (isinstance(thinking, dict) and thinking.get("type") == "disabled")


def _is_valid(request: Json, style: ThinkingStyle) -> bool:
    thinking, effort = "thinking" in request, "reasoning_effort" in request
    match style:
        case "effort":
            return not thinking and request.get("reasoning_effort") in ("low", "high", "max")
        case "always":
            return not thinking and not effort
        case "switch" | "switch-effort":
            with_effort = style == "switch-effort"
            return not effort and _is_switch(request.get("thinking"), with_effort=with_effort)


def _is_switch(thinking: Any, *, with_effort: bool) -> bool:
    match thinking:
        case {"type": "enabled" | "disabled", **rest}:
            effort = rest.pop("effort", None)
            return (effort is None or (with_effort and effort in ("low", "high", "max"))) and (
                not rest or rest == {"keep": "all"}
            )
        case _:
            return False


def _asked(request: Json, wish: ThinkingWish) -> ThinkingWish | None:
    """What the caller asked for, in whosever words; the operator's effort fills what they left."""
    thinking, level = request.get("thinking"), request.get("reasoning_effort")
    effort = _EFFORTS.get(level) if isinstance(level, str) else None
    if isinstance(thinking, dict):
        named = thinking.get("effort")
        if isinstance(named, str):
            effort = _EFFORTS.get(named, effort)
        if thinking.get("type") in _OFF:
            return ThinkingWish(enabled=False)
        if thinking.get("type") in _ON:
            return ThinkingWish(effort=effort or wish.effort)
    if isinstance(level, str) and level in _OFF:
        return ThinkingWish(enabled=False)
    return ThinkingWish(effort=effort) if effort else None


def _fields(style: ThinkingStyle, wish: ThinkingWish) -> Json:
    match style:
        case "always":
            return {}
        case "effort":
            return {"reasoning_effort": (wish.effort or _USUAL) if wish.enabled else _LEAST}
        case "switch" | "switch-effort":
            if not wish.enabled:
                return {"thinking": {"type": "disabled"}}
            switch: Json = {"type": "enabled", "keep": "all"}
            if style == "switch-effort" and wish.effort:
                switch["effort"] = wish.effort
            return {"thinking": switch}
