from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.settings.problem import Wrong
from runner.settings.units import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800.0),
        ("90s", 90.0),
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("1d", 86400.0),
        ("1.5h", 5400.0),
        ("45", 45.0),
        (45, 45.0),
        (0.5, 0.5),
        (" 20S ", 20.0),
    ],
)
def test_durations_become_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1g", 1 << 30),
        ("512m", 512 << 20),
        ("64KiB", 64 << 10),
        ("1.5G", 3 << 29),
        ("2tb", 2 << 40),
        ("4096", 4096),
        (4096, 4096),
    ],
)
def test_sizes_become_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value", ["", "soon", "-5s", "5 parsecs", "m", "1h 30m", "٣s", -1, True, float("nan"), [], {}]
)
def test_a_wrong_duration_says_how_to_write_one(value: object) -> None:
    with pytest.raises(Wrong) as caught:
        parse_duration(value)
    assert '"30m"' in caught.value.fix


@pytest.mark.parametrize("value", ["", "big", "-1g", "1gg", "1 g b", -1, True, 1.5, None, []])
def test_a_wrong_size_says_how_to_write_one(value: object) -> None:
    with pytest.raises(Wrong) as caught:
        parse_size(value)
    assert '"512m"' in caught.value.fix


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none()))
def test_any_value_is_a_unit_or_wrong(value: object) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(Wrong):
            assert parse(value) >= 0
