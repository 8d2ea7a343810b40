"""Names of files, as strangers and agents choose them."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.host.filenames import MAX_NAME_BYTES, harmless, media_type, safe_name


@pytest.mark.parametrize(
    ("given_name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("Übersicht 2026.xlsx", "Übersicht 2026.xlsx"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\x.doc", "x.doc"),
        ("a/b/", "file"),
        ("", "file"),
        ("..", "file"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("x\0y\ny\r.txt", "x y y .txt"),
        ("pay\u202efdp.exe", "pay fdp.exe"),
        ('a"b<c>.txt', "a_b_c_.txt"),
        ("name. . ", "name"),
        ("$(id)`id`.sh", "_(id)_id_.sh"),
    ],
)
def test_a_name_is_made_safe_and_stays_close(given_name: str, safe: str):
    assert safe_name(given_name) == safe


def test_a_name_that_is_taken_gets_a_number_before_its_suffix():
    assert safe_name("A.txt", ["a.TXT"]) == "A-2.txt"
    assert safe_name("A.txt", ["a.txt", "a-2.txt"]) == "A-3.txt"


def test_a_long_name_keeps_its_suffix():
    name = safe_name("é" * 500 + ".pdf")
    assert name.endswith("é.pdf")
    assert len(name.encode()) <= MAX_NAME_BYTES


@given(st.text(), st.lists(st.text(), max_size=3))
def test_any_text_becomes_one_plain_file_name(text: str, others: list[str]):
    taken = [safe_name(o) for o in others]
    name = safe_name(text, taken)
    assert 0 < len(name.encode()) <= MAX_NAME_BYTES
    assert "/" not in name
    assert "\\" not in name
    assert name[0] not in ".-~ "
    assert not any(unicodedata.category(c)[0] == "C" for c in name)
    assert name.casefold() not in {t.casefold() for t in taken}
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("a.pdf", "application/pdf"),
        ("a.PNG", "image/png"),
        ("a.md", "text/markdown"),
        ("a.html", "text/html"),
        ("a.tar.gz", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("data:text/html,x", "application/octet-stream"),
    ],
)
def test_the_type_is_that_of_the_suffix(name: str, type_: str):
    assert media_type(name) == type_


@pytest.mark.parametrize(
    "type_", ["text/html", "image/svg+xml", "application/xhtml+xml", "text/javascript", "text/xml"]
)
def test_what_a_browser_would_run_is_bytes(type_: str):
    assert harmless(type_) == "application/octet-stream"
    assert harmless("image/png") == "image/png"
