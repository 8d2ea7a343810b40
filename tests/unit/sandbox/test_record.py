"""What is known of sandbox processes on disk."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.sandbox.record import (
    ProcessId,
    Record,
    Records,
    boot_id,
    identify,
    is_running,
    send_signal,
    tree,
    wait_ended,
)
from runner.settings.layout import Layout

SLEEPER = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(SLEEPER, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def record(process: ProcessId, *, boot: str = "", generation: int = 3) -> Record:
    return Record(
        boot or boot_id(), process.pid, process.started, "group", "g-1", generation, home=""
    )


def test_a_process_is_known_until_it_ends(child: "subprocess.Popen[bytes]"):
    process = identify(child.pid)
    assert process is not None
    assert is_running(process)
    assert not wait_ended(process, 0)
    assert send_signal(process, signal.SIGKILL)
    assert wait_ended(process, 20)
    assert not is_running(process)  # a zombie does not run
    assert not send_signal(process, signal.SIGKILL)


def test_a_pid_that_was_used_again_gets_no_signal(child: "subprocess.Popen[bytes]"):
    now = identify(child.pid)
    assert now is not None
    before = ProcessId(now.pid, now.started - 1)
    assert not is_running(before)
    assert not send_signal(before, signal.SIGKILL)
    assert wait_ended(before, 0)
    assert is_running(now)


def test_records_come_back_and_a_torn_one_is_none(tmp_path: Path):
    records = Records(Layout(tmp_path), "i")
    own = identify(os.getpid())
    assert own is not None
    written = record(own)
    records.write(written)
    assert records.read("g-1") == written
    assert [r.info().running for r in records.all()] == [True]
    (Layout(tmp_path).group_run("g-1") / "sandbox-i.json").write_text('{"boot": "x"')
    assert records.read("g-1") is None
    records.remove("g-1")
    assert records.all() == []


def test_installs_do_not_see_each_other_s_records(tmp_path: Path):
    Records(Layout(tmp_path), "a").write(record(ProcessId(1, 1)))
    assert Records(Layout(tmp_path), "b").all() == []


def test_a_process_of_an_earlier_boot_does_not_run():
    own = identify(os.getpid())
    assert own is not None
    assert not record(own, boot="another").info().running


def test_a_tree_has_grandchildren_and_those_who_left_it(tmp_path: Path):
    home = str(tmp_path / "home")
    # The inner process starts a grandchild in a session of its own and ends: nobody's child now.
    script = (
        "import subprocess, sys\n"
        f"sleeper = {SLEEPER!r}\n"
        "lost = 'import subprocess, sys; "
        "p = subprocess.Popen(sys.argv[1:], start_new_session=True, stdout=2); print(p.pid)'\n"
        "lost_pid = subprocess.check_output([sys.executable, '-c', lost, *sleeper])\n"
        "kid = subprocess.Popen(sleeper, stdout=subprocess.DEVNULL)\n"
        "print(int(lost_pid), kid.pid, flush=True)\n"
        "kid.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={"HOME": home},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as root:
        assert root.stdout is not None
        lost, kid = (int(n) for n in root.stdout.readline().split())
        family = tree(root.pid, home)
        for process in family:
            send_signal(process, signal.SIGKILL)
    assert {root.pid, lost, kid} <= {p.pid for p in family}
    assert os.getpid() not in {p.pid for p in family}
