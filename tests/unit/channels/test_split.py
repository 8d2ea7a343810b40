"""Long texts in parts: nothing lost, nothing too long, code still code."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.channels.split import split

# Texts as models write them, and texts as nobody would.
_word = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=12)
_prose = st.lists(st.sampled_from(["word", "a.", "Is it?", "\n", "\n\n", " ", "longer-one", "é"]))
_hostile = st.text(st.sampled_from("`~ \n\t.a\u0301\u200d👍🏽🇩🇪\r"), max_size=300)
_READ = ("a", " ", "e\u0301\u0323", "👍🏽", "👩\u200d🚀", "🇩🇪", "❤\ufe0f")
_code_line = st.text(st.sampled_from("xy = 1()#"), min_size=1, max_size=30).filter(str.strip)


@st.composite
def _with_code(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Paragraphs and code blocks in turn; the lines of code apart."""
    pieces: list[str] = []
    code: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        pieces.append(" ".join(draw(st.lists(_word, min_size=1, max_size=20))).replace("`", "'"))
        lines = draw(st.lists(_code_line, min_size=1, max_size=15))
        pieces.append("\n".join(["```py", *lines, "```"]))
        code += lines
    return "\n\n".join(p.replace("~", "-") for p in pieces), code


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


@given(st.one_of(st.text(max_size=300), _hostile, _prose.map("".join)), st.integers(1, 50))
def test_parts_are_short_and_never_empty(text: str, limit: int) -> None:
    for part in split(text, limit):
        assert part.strip()
        assert len(part) <= limit


@given(st.lists(_word), st.data())
def test_no_word_is_lost_or_changed(words: list[str], data: st.DataObject) -> None:
    blanks = st.sampled_from([" ", "  ", "\n", "\n\n", " \n  "])
    text = "".join(w.replace("`", "'").replace("~", "-") + data.draw(blanks) for w in words)
    limit = data.draw(st.integers(12, 60))
    assert " ".join(split(text, limit)).split() == text.split()


@given(st.text(max_size=300), st.integers(1, 50))
def test_nothing_but_white_space_goes(text: str, limit: int) -> None:
    text = text.replace("`", "'").replace("~", "-")
    assert squeezed("".join(split(text, limit))) == squeezed(text)


@given(_with_code(), st.integers(40, 120))
def test_code_stays_code_whole_and_in_order(made: tuple[str, list[str]], limit: int) -> None:
    text, code = made
    seen: list[str] = []
    for part in split(text, limit):
        inside = False
        for line in part.split("\n"):
            if line.startswith("```"):
                assert line == ("```" if inside else "```py")
                inside = not inside
            elif inside:
                seen.append(line)
        assert not inside
    assert seen == code


@given(st.lists(st.sampled_from(_READ), max_size=150).map("".join), st.integers(8, 40))
def test_what_is_read_as_one_character_is_not_taken_apart(text: str, limit: int) -> None:
    whole = re.compile(f"(?:{'|'.join(_READ)})*")
    for part in split(text, limit):
        assert whole.fullmatch(part), part


def test_a_short_text_is_left_as_it_is() -> None:
    assert split("  hello\n", 20) == ["  hello\n"]
    assert split(" \n ", 20) == []
    assert split(" " * 50, 20) == []


@pytest.mark.parametrize(
    ("text", "limit", "parts"),
    [
        ("one two\n\nthree four\nfive", 20, ["one two", "three four\nfive"]),
        ("one two\nthree four\nfive", 20, ["one two\nthree four", "five"]),
        ("One two. Three four. Five six.", 22, ["One two. Three four.", "Five six."]),
        ("one two three four", 10, ["one two", "three four"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("- a\n\n    - indented stays", 24, ["- a", "    - indented stays"]),
        ("一二三。四五六。", 5, ["一二三。", "四五六。"]),
    ],
)
def test_it_cuts_at_the_best_place(text: str, limit: int, parts: list[str]) -> None:
    assert split(text, limit) == parts


def test_a_long_code_block_is_closed_and_opened_again_with_its_language() -> None:
    text = "Look:\n\n```python\na = 1\nb = 2\nc = 3\n```\n\nDone."
    assert split(text, 30) == [
        "Look:",
        "```python\na = 1\nb = 2\n```",
        "```python\nc = 3\n```\n\nDone.",
    ]


def test_a_block_that_fits_into_one_part_is_not_cut() -> None:
    text = "Some words before it.\n\n```sh\necho one\necho two\n```\n\nSome words after it."
    assert split(text, 40) == [
        "Some words before it.",
        "```sh\necho one\necho two\n```",
        "Some words after it.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["```", *["x" * 70] * 10_000, "```"]),
        "x" * 1_000_000,
        "🇩🇪" * 500_000,
        "a" + "\u0301" * 1_000_000,
        "a" + "\u3000" * 1_000_000 + "b",
        "```\n" * 250_000,
        "a. " * 300_000,
    ],
    ids=["code", "word", "flags", "marks", "blanks", "fences", "sentences"],
)
@pytest.mark.timeout(20)
def test_a_very_long_text_is_split_in_reasonable_time(text: str) -> None:
    assert 0 < len(split(text, 1000)) <= 1100
