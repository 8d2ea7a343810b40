"""What strangers wrote is shown to an operator as text, and as nothing else."""

import io
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runner.api.client import ServerEvent
from runner.cli.chat import _Terminal
from runner.cli.output import plain, visible

LOGS = """
import structlog
from runner.cli.context import LogFormat, LogLevel, start_logging
start_logging(LogLevel.INFO, LogFormat.CONSOLE)
log = structlog.get_logger()
log.info("tool.refused", tool="\\x1b[2J")
try:
    raise ValueError("\\x1b[3J")
except ValueError:
    log.exception("tool.bug")
"""


def printed(text: str) -> str:
    file = io.StringIO()
    Console(file=file, highlight=False, soft_wrap=True).print(f"{plain(text)} .")
    return file.getvalue()


@pytest.mark.parametrize(
    "text", ["\\[/]", "\\\\[bold]x", "[red]x[/red]", "[link=http://x]y", "a [1]"]
)
def test_markup_of_strangers_is_shown_as_it_is(text: str) -> None:
    assert printed(text) == f"{text} .\n"


@given(st.text(max_size=40))
def test_no_text_breaks_a_table_or_steers_a_terminal(text: str) -> None:
    shown = printed(text)
    assert not any(c < " " and c not in "\n\t" for c in shown)
    assert "\x9b" not in shown


def test_what_steers_a_terminal_is_written_out() -> None:
    assert (
        visible("a\x1b[2J\x9bb\r\u202ec\td\ne\u00a0f") == "a\\x1b[2J\\x9bb\\r\\u202ec\td\ne\u00a0f"
    )


def test_what_is_logged_cannot_steer_the_terminal_of_an_operator() -> None:
    said = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, check=True).stderr
    assert b"tool.refused" in said
    assert b"\\x1b[2J" in said
    assert b"\\x1b[3J" in said
    assert b"\x1b" not in said


def test_an_answer_cannot_steer_the_terminal_of_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    for place, shown in ((Tty(), "\\x1b]0;x\\x07\n"), (io.StringIO(), "\x1b]0;x\x07\n")):
        monkeypatch.setattr("sys.stdout", place)
        _Terminal().show(ServerEvent("text.delta", {"text": "\x1b]0;x\x07\n"}))
        assert place.getvalue() == shown
