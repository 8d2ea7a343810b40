"""What a webhook makes of URLs, texts and answers: no network needed."""

import json
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.channels.channel import Failed, Rejected, RetryAfter
from runner.channels.webhook import body_of, judge, refusal, seconds_of, signature


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/hook",
        "https://bot.example.com/answers?chat=7&token=x",
        "https://[::1]:8443/",
        "https://bot.example.com",
    ],
)
def test_ordinary_urls_are_taken(url: str) -> None:
    assert refusal(url) == ""


@pytest.mark.parametrize(
    "url",
    [
        "ftp://bot.example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "//bot.example.com/hook",
        "bot.example.com/hook",
        "https:///hook",
        "https://user:secret@bot.example.com/",
        "https://user@bot.example.com/",
        "https://bot.example.com:0/",
        "https://bot.example.com:99999/",
        "https://bot.example.com/a b",
        "https://bot.example.com/\r\nx-injected: 1",
        "https://bot.example.com/é",
        "https://[::1/",
        "https://bot.example.com/" + "a" * 2048,
    ],
)
def test_urls_that_lead_astray_are_refused_with_the_reason(url: str) -> None:
    assert refusal(url)


@given(st.text())
def test_any_text_is_judged_without_a_crash(url: str) -> None:
    refusal(url)
    refusal(f"https://{url}")


def test_the_signature_is_the_common_one() -> None:
    # echo -n '{"a":1}' | openssl dgst -sha256 -hmac secret
    assert signature(b"secret", b'{"a":1}') == (
        "sha256=aa9e2e3575f5d7098b6caccd790888c36d5fdb63342a73bada2d6a51747a8494"
    )


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_tried_again(status: int) -> None:
    assert judge(status, "", "busy") == Failed(f"HTTP {status}: busy")
    assert judge(status, "7", "") == RetryAfter(7.0, f"HTTP {status}")


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404, 409, 410, 413, 422])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    assert isinstance(judge(status, "7", ""), Rejected)


def test_a_wait_may_be_a_number_or_a_date() -> None:
    now = 1_700_000_000.0
    assert seconds_of("120", now) == 120
    assert seconds_of(formatdate(now + 90, usegmt=True), now) == 90
    assert seconds_of(format_datetime(datetime.fromtimestamp(now - 5, UTC)), now) == 0
    for nothing in ("", "soon", "-5", "1.5", "Thu, 99 Foo 2024", "٣"):
        assert seconds_of(nothing, now) is None


@given(st.text())
def test_no_wait_that_a_server_names_breaks_it(value: str) -> None:
    found = seconds_of(value, 0.0)
    assert found is None or found >= 0


def test_a_long_text_comes_in_parts_beside_the_whole() -> None:
    said = {"event": "turn.finished", "text": "one two\n\nthree four"}
    assert "parts" not in json.loads(body_of(said, 0))
    assert "parts" not in json.loads(body_of(said, 100))
    cut = json.loads(body_of(said, 12))
    assert (cut["parts"], cut["text"]) == (["one two", "three four"], said["text"])
    assert "parts" not in json.loads(body_of({"event": "turn.failed"}, 5))


def test_half_a_character_does_not_keep_an_answer_back() -> None:
    assert json.loads(body_of({"text": "a\ud800b"}, 0)) == {"text": "a?b"}
