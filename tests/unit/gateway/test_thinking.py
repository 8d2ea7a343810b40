"""The thinking parameter of each family, and whose words it follows."""

from __future__ import annotations

from typing import Any

import pytest

from runner.gateway.thinking import ThinkingWish, is_thinking, with_thinking
from runner.settings.models import Family, shipped

ON, OFF, MAX = ThinkingWish(), ThinkingWish(enabled=False), ThinkingWish(effort="max")
SWITCH = {"type": "enabled", "keep": "all"}
NO = {"type": "disabled"}


def family(model: str) -> Family:
    facts = shipped().find(model)
    assert facts is not None
    assert facts.family is not None
    return facts.family


@pytest.mark.parametrize(
    ("model", "wish", "fields"),
    [
        ("kimi-k2.6", ON, {"thinking": SWITCH}),
        ("kimi-k2.6", MAX, {"thinking": SWITCH}),
        ("kimi-k2.6", OFF, {"thinking": NO}),
        ("kimi-k2.7-code", ON, {}),
        ("kimi-k2.7-code", OFF, {}),
        ("kimi-k3", ON, {"reasoning_effort": "high"}),
        ("kimi-k3", MAX, {"reasoning_effort": "max"}),
        ("kimi-k3", OFF, {"reasoning_effort": "low"}),
        ("kimi-for-coding", ON, {"thinking": SWITCH}),
        ("k3", MAX, {"thinking": {**SWITCH, "effort": "max"}}),
        ("k3-256k", OFF, {"thinking": NO}),
    ],
)
def test_each_family_is_told_in_its_own_words(model: str, wish: ThinkingWish, fields: Any) -> None:
    assert with_thinking({"model": model}, family(model), wish) == {"model": model, **fields}


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("kimi-k2.6", {"thinking": {"type": "enabled"}}),
        ("kimi-k2.6", {"thinking": NO}),
        ("kimi-k3", {"reasoning_effort": "low"}),
        ("k3", {"thinking": {"type": "enabled", "effort": "low"}}),
        ("kimi-for-coding", {"thinking": SWITCH}),
    ],
)
def test_what_the_caller_set_validly_is_left_alone(model: str, fields: dict[str, Any]) -> None:
    for wish in (ON, OFF, MAX):
        assert with_thinking(fields, family(model), wish) is fields


@pytest.mark.parametrize(
    ("model", "said", "fields"),
    [
        ("kimi-k2.6", {"reasoning_effort": "medium"}, {"thinking": SWITCH}),
        ("kimi-k2.6", {"reasoning_effort": "none"}, {"thinking": NO}),
        ("kimi-k2.6", {"thinking": {"type": "adaptive"}}, {"thinking": SWITCH}),
        ("kimi-k2.6", {"thinking": {"type": "enabled", "budget_tokens": 9}}, {"thinking": SWITCH}),
        ("kimi-k2.7-code", {"thinking": NO, "reasoning_effort": "low"}, {}),
        ("kimi-k3", {"thinking": SWITCH}, {"reasoning_effort": "high"}),
        ("kimi-k3", {"thinking": {"type": "enabled", "effort": "max"}},
         {"reasoning_effort": "max"}),
        ("kimi-k3", {"thinking": NO}, {"reasoning_effort": "low"}),
        ("kimi-k3", {"reasoning_effort": "xhigh"}, {"reasoning_effort": "max"}),
        ("k3", {"reasoning_effort": "low"}, {"thinking": {**SWITCH, "effort": "low"}}),
        ("k3", {"reasoning_effort": "low", "thinking": {"type": "enabled", "effort": "max"}},
         {"thinking": {**SWITCH, "effort": "max"}}),
    ],
)  # fmt: skip
def test_another_api_s_words_are_translated(
    model: str, said: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert with_thinking(said, family(model), ON) == fields


@pytest.mark.parametrize("nonsense", [None, 3, "on", [], {}, {"type": "maybe"}, {"type": []}])
def test_nonsense_counts_as_nothing_said(nonsense: Any) -> None:
    for model in ("kimi-k2.6", "kimi-k2.7-code", "kimi-k3", "k3"):
        said = {"thinking": nonsense, "reasoning_effort": nonsense}
        for wish in (ON, OFF, MAX):
            assert with_thinking(said, family(model), wish) == with_thinking(
                {}, family(model), wish
            )


def test_a_wish_is_read_from_the_words_of_the_settings() -> None:
    assert ThinkingWish.of("") == ON
    assert ThinkingWish.of("off") == OFF
    assert ThinkingWish.of("medium") == ThinkingWish(effort="high")
    assert ThinkingWish.of("max") == MAX


def test_only_a_model_that_can_be_switched_off_may_be_off() -> None:
    for model, off in (("kimi-k2.6", True), ("k3", True), ("kimi-k3", False)):
        request = with_thinking({}, family(model), OFF)
        assert is_thinking(request, family(model)) is not off
    assert is_thinking({"thinking": NO}, family("kimi-k2.7-code"))
