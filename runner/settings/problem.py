"""What is wrong with a config, as data: where, what, and the fix. Many become one error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.errors import ConfigError

MAX_LISTED = 10
Where = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake at the key path ``where``; ``text`` continues a sentence that begins with it."""

    where: Where
    text: str
    fix: str = ""


class Wrong(ValueError):
    """Raised by a validator; pydantic carries it, so that the fix is not lost on the way."""

    def __init__(self, text: str, fix: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.fix = fix


def dotted(where: Where) -> str:
    """A key path as one would write it in TOML: ``providers."managed:kimi-code".oauth.key``."""
    path = ""
    for part in where:
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        name = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'
        path += f".{shorten(name)}" if path else shorten(name)
    return path


def shorten(text: str, limit: int = 80) -> str:
    """Printable and short enough for one line of a terminal."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def to_error(path: Path, problems: Sequence[Problem]) -> ConfigError:
    """All problems of one file as one error; the first :data:`MAX_LISTED` are spelled out."""
    lines = [f"{dotted(p.where)} {p.text}" if p.where else p.text for p in problems]
    if len(problems) == 1:
        return ConfigError(f"{path}: {lines[0]}", hint=problems[0].fix)
    listed = [
        f"  {line} ({p.fix})" if p.fix else f"  {line}"
        for line, p in zip(lines[:MAX_LISTED], problems, strict=False)
    ]
    if len(problems) > MAX_LISTED:
        listed.append(f"  and {len(problems) - MAX_LISTED} more")
    return ConfigError(
        f"{path}: {len(problems)} mistakes\n" + "\n".join(listed),
        hint="correct each of them; docs/configuration.md explains every key",
    )
