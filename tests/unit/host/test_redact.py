import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.host.redact import MASK, Redactor, redact

SECRET = "eyJhbGciOi.abcabcabcd.xyz"


def pieces(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({min(c, len(text)) for c in cuts} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(ends)]


@given(
    before=st.text("eyJabc. "),
    after=st.text("eyJabc. "),
    cuts=st.lists(st.integers(0, 80), max_size=12),
)
def test_a_secret_is_found_however_it_is_cut(before: str, after: str, cuts: list[int]) -> None:
    redactor = Redactor(lambda: [SECRET])
    shown = [redactor.feed(p) for p in pieces(before + SECRET + after, cuts)]
    said = "".join([*shown, redactor.flush()])
    assert said == before + MASK + after


@given(st.text("eyJhbGciOi.abc", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_text_without_a_secret_passes_unchanged(text: str, cuts: list[int]) -> None:
    redactor = Redactor(lambda: [SECRET])
    said = "".join([redactor.feed(p) for p in pieces(text, cuts)]) + redactor.flush()
    assert said == text.replace(SECRET, MASK)


def test_ordinary_text_is_not_held_back() -> None:
    redactor = Redactor(lambda: [SECRET])
    assert redactor.feed("good morning") == "good morning"
    assert redactor.feed(" and ey") == " and "
    assert redactor.feed("es too") == "eyes too"


def test_a_rotated_token_is_known_from_then_on() -> None:
    secrets = ["first-token-value"]
    redactor = Redactor(lambda: secrets)
    assert redactor.feed("first-token-value ") == f"{MASK} "
    secrets.append("second-token-value")
    assert redactor.feed("second-token-value ") == f"{MASK} "


@pytest.mark.parametrize(
    "value", [SECRET, {"a": [SECRET]}, [{"x": {"y": f"<{SECRET}>"}}], {SECRET: 1}]
)
def test_structures_are_cleaned_to_the_ground(value: object) -> None:
    assert SECRET not in repr(redact(value, [SECRET]))
    assert MASK in repr(redact(value, [SECRET]))


def test_short_words_are_no_secrets() -> None:
    assert redact("the cat", ["the", ""]) == "the cat"
