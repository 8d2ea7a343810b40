"""Tables with many numbers, on a terminal of any width: no number is ever cut."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.cli.output import WIDEST, out

NARROWEST_NAME = 14
_GAP = "  "


def show_wide(shown: Table, *, names: int = 1, console: Console | None = None) -> None:
    """Print a table whose first ``names`` columns are names, which may be folded; nothing else is.

    Where that leaves too little room, each row is its names, or its first cell, on one line and the
    rest, with what it is, below. A pipe has all the room that is needed.
    """
    if console is None:
        console = out if out.is_terminal else Console(width=WIDEST, highlight=False)
    rows = [[Text.from_markup(str(cell)) for cell in column.cells] for column in shown.columns]
    heads = [Text.from_markup(str(column.header)) for column in shown.columns]
    widths = [
        max(cell_len(cell.plain) for cell in (head, *cells))
        for head, cells in zip(heads, rows, strict=True)
    ]
    least = [min(w, NARROWEST_NAME) for w in widths[:names]] + widths[names:]
    if sum(least) + len(_GAP) * (len(least) - 1) <= console.width:
        for column in shown.columns[names:]:
            column.no_wrap = True
        console.print(shown)
        return
    names = max(names, 1)
    for row in zip(*rows, strict=True):
        title = Text(_GAP).join(cell for cell in row[:names] if cell.plain)
        title.stylize("bold")
        console.print(title)
        said = [
            f"{head.plain.lower()} {cell.plain}"
            for head, cell in zip(heads[names:], row[names:], strict=True)
            if cell.plain not in ("", "-")
        ]
        for line in _lines(said, console.width - len(_GAP)):
            console.print(Text(_GAP + line))


def _lines(parts: list[str], width: int) -> list[str]:
    """As many parts on a line as go; none is broken."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1]) + len(_GAP) + cell_len(part) <= width:
            lines[-1] += _GAP + part
        else:
            lines.append(part)
    return lines
