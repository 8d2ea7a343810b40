"""One line of ``nanokimi doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from runner.errors import NanokimiError


class Grade(StrEnum):
    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, what was found, and the fix in one line."""

    name: str
    grade: Grade
    found: str
    fix: str = ""


def failed(name: str, e: NanokimiError) -> Check:
    """An error as a line."""
    return Check(name, Grade.FAIL, e.message, e.hint)
