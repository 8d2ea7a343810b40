"""The models the demo provider knows, with the rules that differ between their families.

As of 2026-11: https://platform.moonshot.ai/docs for the open platform (``/v1``), the model list of
Kimi Code for ``/coding/v1``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Thinking = Literal["switchable", "always"]


@dataclass(frozen=True, slots=True)
class DemoModel:
    """``context`` is in tokens. ``effort`` says whether ``reasoning_effort`` is understood."""

    id: str
    context: int
    thinking: Thinking = "switchable"
    effort: bool = False


_TINY = DemoModel("demo-tiny", 4_000)

OPEN_PLATFORM: Mapping[str, DemoModel] = {
    m.id: m
    for m in (
        DemoModel("kimi-k3", 1_048_576, thinking="always", effort=True),
        DemoModel("kimi-k2.7-code", 262_144, thinking="always"),
        DemoModel("kimi-k2.6", 262_144),
        _TINY,
    )
}
KIMI_CODE: Mapping[str, DemoModel] = {
    m.id: m
    for m in (
        DemoModel("kimi-for-coding", 262_144),
        DemoModel("k3", 1_048_576, effort=True),
        DemoModel("k3-256k", 262_144, effort=True),
        _TINY,
    )
}
