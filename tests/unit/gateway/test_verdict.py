"""A reviewer's answer is a verdict only when it says one, and one only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.gateway.verdict import MAX_REASON, Judgement, read_validation


@pytest.mark.parametrize(
    ("text", "judgement", "reason"),
    [
        ("VALID", Judgement.VALID, ""),
        ("VALID: handles the empty list", Judgement.VALID, "handles the empty list"),
        ("INVALID - SQL is put together by hand", Judgement.INVALID, "SQL is put together by hand"),
        ("**INVALID**\n\nNo bounds.", Judgement.INVALID, "No bounds."),
        ("Verdict: **VALID**. Fine.", Judgement.VALID, "Fine."),
        ("invalid \u2014 slow", Judgement.INVALID, "slow"),
        ("It leaks a file handle.\n\nINVALID", Judgement.INVALID, "It leaks a file handle."),
        ("- VALID, small and clear", Judgement.VALID, "small and clear"),
    ],
)
def test_the_word_and_its_reason_are_found(text: str, judgement: Judgement, reason: str) -> None:
    found = read_validation(text)
    assert (found.judgement, found.reason) == (judgement, reason)
    assert found.passed == (judgement is Judgement.VALID)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Looks good to me.",
        "The code is valid.",
        "VALIDATION passed",
        "VALID or INVALID? Hard to say.",
        "VALID\nINVALID",
        "VALID/INVALID",
        "Not VALID: it leaks",
    ],
)
def test_what_says_neither_or_both_is_unclear_and_has_not_passed(text: str) -> None:
    found = read_validation(text)
    assert found.judgement is Judgement.UNCLEAR
    assert not found.passed


@given(st.text(max_size=300))
def test_no_answer_breaks_the_reader(text: str) -> None:
    assert read_validation(text).judgement in Judgement


@given(st.text(min_size=1, max_size=9000))
def test_a_refusal_is_never_taken_for_a_pass_however_it_goes_on(text: str) -> None:
    found = read_validation("INVALID: " + text)
    assert not found.passed
    assert len(found.reason) <= MAX_REASON
