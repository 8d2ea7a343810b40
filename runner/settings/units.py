"""Durations and sizes as people write them: ``"30m"`` to seconds, ``"512m"`` to bytes."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from runner.settings.problem import Wrong, shorten

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d{1,12}(?:\.\d{1,6})?(?:ms|[smhd]))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])", re.ASCII)
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,6})?) ?(?:([kmgt])i?)?b?", re.ASCII)
_BYTES = {None: 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DURATION_FIX = 'write "90s", "30m", "1h30m", or a plain number of seconds'
_SIZE_FIX = 'write "512m", "1g", or a plain number of bytes'


def parse_duration(value: object) -> float:
    """Seconds of ``"90s"``, ``"30m"``, ``"1h30m"``, ``"250ms"``, ``"45"`` or a plain number.

    Raises:
        Wrong: anything else, negative and endless ones included.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 <= value < 1e12 and math.isfinite(value):
            return float(value)
    elif isinstance(value, str):
        text = value.strip().lower()
        if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text, re.ASCII):
            return float(text)
        if _DURATION.fullmatch(text):
            return sum(float(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(text))
    raise Wrong(f"must be a duration, not {shorten(repr_of(value), 40)}", _DURATION_FIX)


def parse_size(value: object) -> int:
    """Bytes of ``"512m"``, ``"1.5g"``, ``"64KiB"`` (all powers of 1024) or a plain number.

    Raises:
        Wrong: anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62:
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip().lower())):
        return int(float(match[1]) * _BYTES[match[2]])
    raise Wrong(f"must be a size, not {shorten(repr_of(value), 40)}", _SIZE_FIX)


def repr_of(value: object) -> str:
    """How a TOML value looks in the file; tables and lists only by their kind."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{shorten(value, 60)}"'
        case float():
            return repr(value)
        case int():
            return str(value) if abs(value) < 10**30 else "a huge number"
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case _:
            return "a date or time"


Duration = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds."""

Size = Annotated[int, BeforeValidator(parse_size)]
"""Bytes."""

Wait = Annotated[Duration, Field(gt=0, le=30 * 86400)]
"""A deadline: more than nothing, at most thirty days."""
