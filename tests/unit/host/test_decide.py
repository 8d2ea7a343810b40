import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import LoginRequiredError, PermanentError, TemporaryError
from runner.host.decide import (
    HELD,
    LONGEST_DELAY,
    LONGEST_HOLD_DELAY,
    GiveUp,
    Hold,
    Retry,
    Tried,
    after_failure,
    frame,
    wakes,
)
from runner.model import Attachment, Message

DAY = 86_400.0


@pytest.mark.parametrize(
    "text", ["@kimi hello", "hello @Kimi!", "look, @KIMI", "(@kimi)", "@kimi", "a\n@kimi b"]
)
def test_the_trigger_wakes_as_a_word_of_its_own(text: str) -> None:
    assert wakes(text, "@kimi", direct=False)


@pytest.mark.parametrize(
    "text", ["hello", "me@kimi.example", "@kimiko", "kimi", "x@kimi", "@@kimi", ""]
)
def test_other_text_only_waits_as_context(text: str) -> None:
    assert not wakes(text, "@kimi", direct=False)


def test_direct_chats_and_an_empty_trigger_answer_everything() -> None:
    assert wakes("hello", "@kimi", direct=True)
    assert wakes("hello", "", direct=False)


def test_a_trigger_is_text_and_never_a_pattern() -> None:
    assert not wakes("xkimi", ".kimi", direct=False)
    assert wakes("hi .kimi", ".kimi", direct=False)


def message(text: str, sender: str = "Ada") -> Message:
    return Message("m", "g", 1, text, sender, created_at=1_700_000_000.0)


def test_a_frame_says_who_and_when() -> None:
    assert frame([message("hello")]) == (
        '<message sender="Ada" time="2023-11-14T22:13:20Z">\nhello\n</message>'
    )


def test_a_frame_names_a_file_that_is_gone_as_missing() -> None:
    there = Attachment("a.txt", "text/plain", 3, "attachments/m/a.txt")
    gone = Attachment("b.txt", "text/plain", 3, "attachments/m/b.txt")
    framed = frame([replace(message("look"), attachments=(there, gone))], {gone.path})
    assert 'path="attachments/m/a.txt"' in framed
    assert '<attachment name="b.txt" missing="it is not there any more"/>' in framed
    assert gone.path not in framed


@pytest.mark.parametrize("text", ["/yolo", "  /yolo", "\n/compact", "!ls"])
def test_no_chat_text_begins_a_prompt(text: str) -> None:
    """Foreign engines take a message that begins with a slash as a command."""
    assert frame([message(text)]).startswith("<message ")


_chars = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")


@given(st.lists(st.tuples(st.text(_chars), st.text(_chars, min_size=1)), min_size=1, max_size=4))
def test_nobody_can_speak_for_somebody_else(said: list[tuple[str, str]]) -> None:
    framed = frame([message(text, sender) for text, sender in said])
    found = ElementTree.fromstring(f"<all>{framed}</all>")
    assert [((m.text or "")[1:-1], m.get("sender")) for m in found] == said


def test_a_temporary_failure_is_tried_again_later_each_time() -> None:
    delays = []
    for attempt in range(1, 5):
        decision = after_failure(TemporaryError("x"), Tried(attempt), 5, DAY)
        assert isinstance(decision, Retry)
        delays.append(decision.delay)
    assert delays == sorted(delays)
    assert len(set(delays)) == len(delays)


def test_the_last_attempt_and_permanent_failures_are_told() -> None:
    assert after_failure(TemporaryError("x"), Tried(5), 5, DAY) == GiveUp()
    assert after_failure(PermanentError("x"), Tried(1), 5, DAY) == GiveUp()


def test_the_wish_of_the_provider_is_kept_up_to_a_bound() -> None:
    assert after_failure(TemporaryError("x", retry_after=30.0), Tried(1), 5, DAY) == Retry(30.0)
    assert after_failure(TemporaryError("x", retry_after=1e9), Tried(1), 5, DAY) == Retry(
        LONGEST_DELAY
    )


def test_a_turn_without_a_login_is_held_however_often() -> None:
    for attempt in (1, 5, 50):
        for error in (LoginRequiredError("x"), PermanentError("x", code="login_required")):
            tried = Tried(attempt, held=100.0)
            assert after_failure(error, tried, 5, DAY) == Hold(DAY - 100.0, login=True)


@pytest.mark.parametrize("code", sorted(HELD))
def test_what_is_no_fault_of_the_message_holds_it_as_long_as_it_may(code: str) -> None:
    for kind in (TemporaryError, PermanentError):
        error = kind("x", code=code)
        assert isinstance(after_failure(error, Tried(99, 10, DAY - 1), 5, DAY), Hold)
        assert after_failure(error, Tried(99, 10, DAY), 5, DAY) == GiveUp()


def test_a_held_turn_is_tried_less_and_less_often_but_at_least_each_minute() -> None:
    error = TemporaryError("x", code="provider_unavailable")
    holds = [after_failure(error, Tried(n + 1, n), 5, DAY) for n in range(2000)]
    delays = [h.delay for h in holds if isinstance(h, Hold)]
    assert delays[:4] == [1.0, 2.0, 4.0, 8.0]
    assert len(delays) == 2000
    assert max(delays) == LONGEST_HOLD_DELAY


def test_attempts_that_were_excused_do_not_count() -> None:
    assert isinstance(after_failure(TemporaryError("x"), Tried(7, 3), 5, DAY), Retry)
    assert after_failure(TemporaryError("x"), Tried(7, 2), 5, DAY) == GiveUp()
