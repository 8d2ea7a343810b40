"""What people read: tables and notes, coloured only on a terminal."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runner.errors import NanokimiError

# Controls but for tabs and line ends, marks that turn writing around, and halves of characters.
_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

WIDEST = 1000
_terminal = sys.stdout.isatty() or "COLUMNS" in os.environ

# A pipe has no width: a table that goes into one is as wide as it needs to be.
out = Console(highlight=False, soft_wrap=True, width=None if _terminal else WIDEST)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def show_error(e: NanokimiError) -> None:
    """Two lines on stderr: what happened, and what to do."""
    err.print("[bold red]error:[/]", plain(e.message))
    if e.hint:
        err.print("[bold]hint:[/]", plain(e.hint))


def note(text: str) -> None:
    """A line that is not the result: to stderr, dim."""
    err.print(f"[dim]{plain(text)}[/]")


def show_json(value: Any) -> None:
    """For scripts: JSON on stdout and nothing else."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))  # noqa: T201


def table(*columns: str) -> Table:
    """An empty table in the house's look."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def ago(at: float) -> str:
    """A Unix time as ``5 min ago``."""
    seconds = max(0.0, time.time() - at)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def plain(text: str) -> str:
    """Somebody's text, for a console that reads markup: it is none, and steers no terminal."""
    return escape(visible(text))


def visible(text: str) -> str:
    """Somebody's text as it is, with what would steer a terminal written out: ``\\x1b``."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
