"""The agent's stderr on disk and in memory, both with a cap."""

from pathlib import Path

from runner.sandbox.agentlog import AgentLog


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
    assert (tmp_path / "g.log").read_text() == "one\ntwo\n"


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
