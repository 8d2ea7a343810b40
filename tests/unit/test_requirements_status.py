"""The list of what older systems' users are owed is complete and names only tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "requirements-status.md").read_text()
_ROW = re.compile(r"^\| ([A-Z]+)-(\d+) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def test_every_test_that_is_named_exists() -> None:
    source = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)", source))
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert named
    assert named - there == set()


def test_every_id_has_one_row_without_gaps() -> None:
    numbers: dict[str, list[int]] = {}
    for prefix, number, *_ in _ROW.findall(TEXT):
        numbers.setdefault(prefix, []).append(int(number))
    assert numbers.keys() == {"DOME", "NANO", "PROXY", "AETHER", "CACHE", "Q"}
    for prefix, found in numbers.items():
        assert found == list(range(1, len(found) + 1)), prefix
