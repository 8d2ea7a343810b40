"""What ``nanokimi logs`` makes of the files that the host writes."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.cli.logs import TAIL, as_object, as_text, last_lines
from runner.sandbox.agentlog import AgentLog, split_line


def texts(path: Path, wait: Callable[[], None] | None = None) -> list[str]:
    return [split_line(line)[1] for line in last_lines(path, wait=wait)]


def written(path: Path, *texts_of: str, limit: int = 1_000_000) -> None:
    log = AgentLog(path, limit=limit)
    for text in texts_of:
        log.write(f"{text}\n".encode())
    log.close()


def test_a_line_is_shown_with_the_time_of_this_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    try:
        shown = as_text(*split_line("2026-11-20T11:02:25.123Z config loaded"))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert shown == "2026-11-20 12:02:25 config loaded"


def test_an_object_has_the_time_in_utc_and_the_text_as_it_was():
    shown = json.loads(as_object(*split_line("2026-11-20T11:02:25.123Z a \x1b[2J b")))
    assert shown == {"time": "2026-11-20T11:02:25.123Z", "text": "a \x1b[2J b"}
    assert json.loads(as_object(*split_line("old"))) == {"time": None, "text": "old"}


def test_what_an_agent_wrote_does_not_steer_the_terminal():
    assert as_text(None, "\x1b[2Jgone\r\u202e\tä🙂") == "\\x1b[2Jgone\\r\\u202e\tä🙂"


def test_only_the_end_of_a_long_log_is_shown_and_no_half_line(tmp_path: Path):
    path = tmp_path / "g.log"
    written(path, *(f"line {n:06}" for n in range(10_000)))
    shown = texts(path)
    assert shown[-1] == "line 009999"
    assert TAIL // 40 < len(shown) < TAIL // 30
    assert all(len(line) == len("line 000000") for line in shown)


def test_a_log_that_was_just_turned_over_shows_the_end_of_the_older_one(tmp_path: Path):
    path = tmp_path / "g.log"
    written(path, *(f"line {n}" for n in range(25)), limit=400)
    assert len(path.read_text().splitlines()) == 1
    assert texts(path) == [f"line {n}" for n in range(12, 25)]


def test_following_shows_every_line_once_over_files_that_are_turned_over(tmp_path: Path):
    path, log = tmp_path / "g.log", AgentLog(tmp_path / "g.log", limit=400)
    count = iter(range(1000))

    def write() -> None:
        n = next(count)
        log.write(f"{n // 2} is ".encode() if n % 2 == 0 else b"whole\n")

    log.write(b"begun\n")
    follow = last_lines(path, wait=write)
    shown = [split_line(next(follow))[1] for _ in range(40)]
    log.close()
    # A line in which the file was turned over comes in two, each with its time.
    assert " ".join(" ".join(shown).split()) == " ".join(
        ["begun", *(f"{n} is whole" for n in range(next(count) // 2))]
    )
