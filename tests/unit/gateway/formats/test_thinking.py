from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.gateway.formats import thinking

from .strategies import properties

texts = st.text(st.characters(exclude_categories=["Cs"]))


@properties
@given(texts)
def test_reasoning_comes_back_byte_for_byte_shown_or_hidden(text: str) -> None:
    assert thinking.ours(thinking.shown(text)) == text
    assert thinking.ours(thinking.hidden(text)) == text


@properties
@given(texts, texts)
def test_altered_thinking_is_not_ours(text: str, other: str) -> None:
    if text != other:
        assert thinking.ours(thinking.shown(text) | {"thinking": other}) is None


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "Hm", "signature": "EqQBCgIYAhIkMWJj"},
        {"type": "thinking", "thinking": "Hm", "signature": ""},
        {"type": "thinking", "thinking": "Hm"},
        {"type": "thinking", "thinking": 1, "signature": "nk1:"},
        {"type": "redacted_thinking", "data": "EmwKAhgB"},
        {"type": "redacted_thinking", "data": "nk1:!"},
        {"type": "redacted_thinking", "data": "nk1:/w=="},
    ],
)
def test_foreign_and_broken_blocks_are_not_ours(block: dict[str, object]) -> None:
    assert thinking.ours(block) is None
