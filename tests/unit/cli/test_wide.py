"""Tables of numbers on terminals that are too narrow for them."""

import io

import pytest
from rich.console import Console

from runner.cli.output import plain, table
from runner.cli.wide import show_wide

NUMBERS = ("1,234", "123,456,789", "100,000,001", "-", "98,765,432", "7,654,321", "$1,234.5678")
GROUP = "a group [with a long id]: 120363041234567890@g.us"


def shown(width: int) -> list[str]:
    made = table("GROUP", "MODEL", "CALLS", "INPUT", "CACHED", "WRITTEN", "OUTPUT", "OF", "COST")
    made.add_row(plain(GROUP), "kimi-for-coding", *NUMBERS)
    made.add_row("total", "", *NUMBERS)
    console = Console(file=io.StringIO(), width=width, highlight=False, soft_wrap=True)
    show_wide(made, names=2, console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [40, 80, 100, 110, 120, 140, 1000])
def test_no_number_is_cut_and_no_line_is_too_long_at_any_width(width: int) -> None:
    lines = shown(width)
    words = " ".join(lines).split()
    for number in NUMBERS:
        assert words.count(number) >= (2 if number != "-" else 0)
    assert all(len(line) <= width or line.startswith("a group") for line in lines)


def test_a_wide_terminal_shows_a_table_and_a_narrow_one_a_block_a_row() -> None:
    assert len(shown(200)) == 3
    assert shown(80) == [
        f"{GROUP}  kimi-for-coding",
        "  calls 1,234  input 123,456,789  cached 100,000,001  output 98,765,432",
        "  of 7,654,321  cost $1,234.5678",
        "total",
        "  calls 1,234  input 123,456,789  cached 100,000,001  output 98,765,432",
        "  of 7,654,321  cost $1,234.5678",
    ]


def test_an_id_is_never_cut_where_nothing_may_be_folded() -> None:
    made = table("TURN", "WHY")
    made.add_row("turn_b110c85ae305436cc57a1d7d", "the provider answered with " + "a lot " * 10)
    console = Console(file=io.StringIO(), width=50, highlight=False, soft_wrap=True)
    show_wide(made, names=0, console=console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == ["turn_b110c85ae305436cc57a1d7d", f"  why {made.columns[1]._cells[0]}"]


def test_names_are_folded_before_the_numbers_give_way() -> None:
    lines = shown(125)
    assert lines[0].split() == [
        "GROUP",
        "MODEL",
        "CALLS",
        "INPUT",
        "CACHED",
        "WRITTEN",
        "OUTPUT",
        "OF",
        "COST",
    ]
    assert len(lines) > 3
