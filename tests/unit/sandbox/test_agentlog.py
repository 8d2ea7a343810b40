"""The agent's stderr on disk and in memory, both with a cap."""

from pathlib import Path

from runner.sandbox.agentlog import AgentLog, split_line

STAMP = "2026-11-20T11:02:25.123Z "


def at_that_time() -> float:
    return 1795172545.123


def texts(path: Path) -> list[str]:
    return [split_line(line)[1] for line in path.read_text().splitlines()]


def test_each_line_begins_with_the_time_of_its_first_byte(tmp_path: Path):
    path, now = tmp_path / "g.log", [1795172545.123]
    log = AgentLog(path, now=lambda: now[0])
    log.write(b"one\ntw")
    now[0] += 3600
    log.write(b"o\n\nthree")
    log.close()
    assert path.read_text() == (
        f"{STAMP}one\n{STAMP}two\n2026-11-20T12:02:25.123Z \n2026-11-20T12:02:25.123Z three"
    )


def test_an_agent_that_writes_a_time_does_not_change_that_of_its_line(tmp_path: Path):
    path, forged = tmp_path / "g.log", "1999-01-01T00:00:00.000Z I was early"
    log = AgentLog(path, now=at_that_time)
    for part in forged:
        log.write(part.encode())
    log.close()
    written, text = split_line(path.read_text())
    assert written is not None
    assert (written.timestamp(), text) == (at_that_time(), forged)


def test_lines_of_an_older_file_have_no_time():
    assert split_line("config loaded") == (None, "config loaded")
    assert split_line("2026-99-20T11:02:25.123Z x") == (None, "2026-99-20T11:02:25.123Z x")


def test_the_next_sandbox_begins_on_a_line_of_its_own(tmp_path: Path):
    for word in (b"cut o", b"two\n"):
        log = AgentLog(tmp_path / "g.log", now=at_that_time)
        log.write(word)
        log.close()
    assert (tmp_path / "g.log").read_text() == f"{STAMP}cut o\n{STAMP}two\n"


def test_a_line_that_is_cut_by_the_limit_has_a_time_in_both_files(tmp_path: Path):
    path = tmp_path / "g.log"
    log = AgentLog(path, limit=60, now=at_that_time)
    log.write(b"x" * 20)
    log.write(b"y" * 20)
    log.close()
    assert (tmp_path / "g.log.1").read_text() == STAMP + "x" * 20
    assert path.read_text() == STAMP + "y" * 20


def test_the_file_is_turned_over_at_its_limit_and_one_old_one_is_kept(tmp_path: Path):
    path = tmp_path / "g.log"
    log = AgentLog(path, limit=100)
    for i in range(50):
        log.write(f"line {i:04}\n".encode())
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.log", "g.log.1"]
    assert path.stat().st_size <= 100
    assert (tmp_path / "g.log.1").stat().st_size <= 100
    assert path.read_text().endswith("line 0049\n")


def test_a_second_sandbox_goes_on_in_the_same_file(tmp_path: Path):
    for word in (b"one\n", b"two\n"):
        log = AgentLog(tmp_path / "g.log")
        log.write(word)
        log.close()
    assert texts(tmp_path / "g.log") == ["one", "two"]


def test_the_tail_keeps_the_last_words_only(tmp_path: Path):
    log = AgentLog(tmp_path / "g.log", tail=10)
    log.write(b"x" * 1000)
    log.write(b"the end")
    assert log.tail() == "xxxthe end"


def test_one_write_larger_than_the_file_keeps_its_end(tmp_path: Path):
    log = AgentLog(tmp_path / "g.log", limit=10)
    log.write(b"0123456789abcdef")
    assert (tmp_path / "g.log").read_bytes() == b"6789abcdef"


def test_a_log_that_cannot_be_written_only_says_so(tmp_path: Path):
    log = AgentLog(tmp_path / "missing" / "g.log")
    log.write(b"words")
    log.write(b" more")
    assert "words" in log.tail()
    assert "No such file" in log.tail()
    assert log.tail().endswith(" more")


def test_a_link_in_place_of_the_log_is_not_followed(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "g.log").symlink_to(victim)
    AgentLog(tmp_path / "g.log").write(b"theirs")
    assert victim.read_text() == "mine"
