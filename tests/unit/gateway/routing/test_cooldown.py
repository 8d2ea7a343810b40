"""Rests: the state machine against a model of it, and what stores and workers make of it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runner.gateway.cooldown import CLOSED, PROBE, Key, Phase, Rest, entered, failed, succeeded
from runner.gateway.failure import Verdict, classify
from runner.gateway.rests import Rests
from runner.gateway.state import MemoryState, SqliteState, StateStore

KEY = Key("https://api.example.org/v1", "fingerprint", "m")
NOW = 1_800_000_000.0

BROKEN = classify(500, "server_error", "", {}, "kimi")
RATE = classify(429, "rate_limit_reached_error", "", {}, "kimi")
QUOTA = classify(429, "exceeded_current_quota_error", "", {}, "kimi")
DOWN = classify(502, "provider_unavailable", "", {}, "kimi")
BAD = classify(400, "invalid_request_error", "", {}, "kimi")


def wished(seconds: int) -> Verdict:
    return classify(429, "rate_limit_reached_error", "", {"retry-after": str(seconds)}, "kimi")


def steady(store: StateStore | None = None) -> Rests:
    return Rests(store or MemoryState(), jitter=lambda: 0.0)


def wait(rests: Rests, now: float, key: Key = KEY) -> float:
    return rests.standing(key, now).wait


class RestMachine(RuleBasedStateMachine):
    """One caller at a time, any order of events; a model that is plain arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.rests = steady()
        self.now = NOW
        self.until = 0.0
        self.strikes = 0
        self.asking = False

    @initialize(cooldown=st.sampled_from([1.0, 60.0, 400.0]))
    def begin(self, cooldown: float) -> None:
        self.cooldown = cooldown

    @rule(seconds=st.floats(0.1, 700))
    def time_passes(self, seconds: float) -> None:
        # A probe that takes too long counts as lost: that has a test of its own.
        self.now += seconds / 100 if self.asking else seconds

    @precondition(lambda self: not self.asking)
    @rule()
    def ask(self) -> None:
        self.asking = self.rests.enter(KEY, self.now)
        assert self.asking == (self.now >= self.until)

    @precondition(lambda self: self.asking)
    @rule()
    def fails(self) -> None:
        self.rests.failed(KEY, BROKEN, self.now, started=self.now, seconds=self.cooldown)
        self.until = self.now + min(600.0, self.cooldown * 2**self.strikes)
        self.strikes += 1
        self.asking = False

    @precondition(lambda self: self.asking)
    @rule(seconds=st.integers(1, 5000))
    def fails_with_a_wish(self, seconds: int) -> None:
        verdict = wished(seconds)
        self.rests.failed(KEY, verdict, self.now, started=self.now, seconds=self.cooldown)
        self.until = self.now + seconds
        self.strikes += 1
        self.asking = False

    @precondition(lambda self: self.asking)
    @rule()
    def answers(self) -> None:
        self.rests.succeeded(KEY, self.now, started=self.now)
        self.until, self.strikes, self.asking = 0.0, 0, False

    @precondition(lambda self: self.asking)
    @rule()
    def client_leaves(self) -> None:
        self.rests.abandoned(KEY, self.now)
        self.until = min(self.until, self.now)
        self.asking = False

    @precondition(lambda self: self.asking and self.strikes > 0)
    @rule()
    def another_asks_beside_the_probe(self) -> None:
        assert not self.rests.enter(KEY, self.now)

    @invariant()
    def nobody_waits_longer_than_said(self) -> None:
        if not self.asking:
            assert wait(self.rests, self.now) == pytest.approx(max(0.0, self.until - self.now))


class TestRestsAgainstTheirModel(RestMachine.TestCase):
    settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_repeated_failure_rests_twice_as_long_up_to_ten_minutes() -> None:
    rests, now, lengths = steady(), NOW, []
    for _ in range(6):
        assert rests.enter(KEY, now)
        rests.failed(KEY, BROKEN, now, started=now, seconds=60.0)
        lengths.append(wait(rests, now))
        now += lengths[-1]
    assert lengths == [60, 120, 240, 480, 600, 600]


def test_the_providers_wish_wins_over_our_own_rest() -> None:
    for seconds in (2, 3000):
        rests = steady()
        rests.failed(KEY, wished(seconds), NOW, started=NOW, seconds=60.0)
        assert wait(rests, NOW) == seconds
        assert rests.standing(KEY, NOW).firm


def test_only_a_wish_is_firm() -> None:
    rests = steady()
    rests.failed(KEY, QUOTA, NOW, started=NOW, seconds=60.0)
    assert wait(rests, NOW) == 3600
    assert not rests.enter(KEY, NOW)
    assert rests.enter(KEY, NOW, force=True)
    rests = steady()
    rests.failed(KEY, wished(30), NOW, started=NOW, seconds=60.0)
    assert not rests.enter(KEY, NOW + 29, force=True)
    assert rests.enter(KEY, NOW + 30)


def test_failures_side_by_side_are_one_failure() -> None:
    rests = steady()
    for _ in range(20):  # all began before the first one was known to fail
        rests.failed(KEY, BROKEN, NOW + 5, started=NOW, seconds=60.0)
    assert wait(rests, NOW + 5) == 60


def test_an_answer_from_before_a_rest_does_not_end_it() -> None:
    rests = steady()
    rests.failed(KEY, RATE, NOW + 5, started=NOW, seconds=60.0)
    rests.succeeded(KEY, NOW + 6, started=NOW)
    assert wait(rests, NOW + 6) == 59


def test_after_a_rest_one_caller_probes_and_the_others_go_on_waiting() -> None:
    rests = steady()
    rests.failed(KEY, BROKEN, NOW, started=NOW, seconds=60.0)
    later = NOW + 60
    assert [rests.enter(KEY, later) for _ in range(5)] == [True, False, False, False, False]
    rests.succeeded(KEY, later + 1, started=later)
    assert all(rests.enter(KEY, later + 1) for _ in range(5))


def test_a_probe_whose_process_died_is_not_waited_for_for_ever() -> None:
    rests = steady()
    rests.failed(KEY, BROKEN, NOW, started=NOW, seconds=60.0)
    assert rests.enter(KEY, NOW + 60)
    assert not rests.enter(KEY, NOW + 60 + PROBE - 1)
    assert rests.enter(KEY, NOW + 60 + PROBE)


def test_a_bad_request_blames_nobody() -> None:
    rests = steady()
    rests.failed(KEY, BAD, NOW, started=NOW, seconds=60.0)
    assert wait(rests, NOW) == 0


def test_two_credentials_of_one_model_rest_apart() -> None:
    rests = steady()
    other = Key(KEY.endpoint, "another", KEY.model)
    for verdict in (RATE, QUOTA, BROKEN):
        rests.failed(KEY, verdict, NOW, started=NOW, seconds=60.0)
        assert wait(rests, NOW) > 0
        assert wait(rests, NOW, other) == 0


def test_a_rate_limit_rests_the_model_a_quota_the_credential_a_dead_host_all_of_it() -> None:
    model = Key(KEY.endpoint, KEY.fingerprint, "another")
    credential = Key(KEY.endpoint, "another", KEY.model)
    elsewhere = Key("https://other.example.org/v1", KEY.fingerprint, KEY.model)
    for verdict, resting in (
        (RATE, {KEY}),
        (QUOTA, {KEY, model}),
        (DOWN, {KEY, model, credential}),
    ):
        rests = steady()
        rests.failed(KEY, verdict, NOW, started=NOW, seconds=60.0)
        found = {k for k in (KEY, model, credential, elsewhere) if wait(rests, NOW, k)}
        assert found == resting


def test_an_entry_without_a_cooldown_never_rests() -> None:
    rests = steady()
    rests.failed(KEY, BROKEN, NOW, started=NOW, seconds=0.0)
    assert rests.enter(KEY, NOW)


def test_rests_end_spread_but_never_before_the_providers_wish() -> None:
    for jitter in (0.0, 0.5, 1.0):
        rests = Rests(MemoryState(), jitter=lambda jitter=jitter: jitter)
        rests.failed(KEY, wished(20), NOW, started=NOW, seconds=60.0)
        assert 20 <= wait(rests, NOW) <= 21
        rests = Rests(MemoryState(), jitter=lambda jitter=jitter: jitter)
        rests.failed(KEY, BROKEN, NOW, started=NOW, seconds=60.0)
        assert wait(rests, NOW) == 60 * (1 - jitter / 10)


def test_a_clock_that_was_set_back_ends_a_rest() -> None:
    rests = steady()
    rests.failed(KEY, BROKEN, NOW, started=NOW, seconds=60.0)
    assert rests.enter(KEY, NOW - 86_400)


@given(
    st.builds(
        Rest,
        st.sampled_from(Phase),
        st.floats(0, 2e9),
        st.floats(0, 2e9),
        st.integers(0, 50),
        st.booleans(),
        st.text(max_size=9),
    )
)
def test_a_rest_comes_back_from_storage_as_it_was(rest: Rest) -> None:
    assert Rest.from_dict(rest.as_dict()) == rest


@pytest.mark.parametrize("stored", [None, {}, {"phase": "odd"}, {"what": 1}])
def test_a_record_that_cannot_be_read_is_no_rest(stored: dict[str, object] | None) -> None:
    assert Rest.from_dict(stored) == CLOSED


def test_an_open_rest_ignores_what_is_late_and_counts_what_is_not() -> None:
    opened = failed(CLOSED, BROKEN, NOW, started=NOW, cooldown=60, jitter=0)
    assert failed(opened, BROKEN, NOW + 1, started=NOW - 1, cooldown=60, jitter=0) == opened
    longer = failed(opened, wished(500), NOW + 1, started=NOW - 1, cooldown=60, jitter=0)
    assert (longer.until, longer.strikes) == (NOW + 501, 1)
    assert succeeded(entered(opened, NOW + 60), NOW + 61, started=NOW + 60) == CLOSED


# -- stores ---------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    if request.param == "memory":
        yield MemoryState()
        return
    state = SqliteState(tmp_path / "gateway.db")
    yield state
    state.close()


def test_both_stores_keep_replace_and_drop_records(store: StateStore) -> None:
    assert store.records("a") == {}
    assert store.update("a", "k", lambda old: {"n": 1, "old": old}) == {"n": 1, "old": None}
    assert store.update("a", "k", lambda old: {"n": (old or {})["n"] + 1}) == {"n": 2}
    assert store.records("a") == {"k": {"n": 2}}
    assert store.records("b") == {}
    assert store.update("a", "k", lambda _: None) is None
    assert store.records("a") == {}


def test_rests_are_remembered_over_a_restart(tmp_path: Path) -> None:
    first = SqliteState(tmp_path / "gateway.db")
    steady(first).failed(KEY, QUOTA, NOW, started=NOW, seconds=60.0)
    first.close()
    second = SqliteState(tmp_path / "gateway.db")
    assert wait(steady(second), NOW + 10) == 3590
    second.close()


def test_workers_see_each_others_rests_and_share_one_probe(tmp_path: Path) -> None:
    one, two = (SqliteState(tmp_path / "gateway.db") for _ in range(2))
    here, there = steady(one), steady(two)
    assert wait(there, NOW) == 0
    here.failed(KEY, BROKEN, NOW, started=NOW, seconds=60.0)
    assert wait(there, NOW) == 60
    assert there.enter(KEY, NOW + 60)
    assert not here.enter(KEY, NOW + 60)
    there.succeeded(KEY, NOW + 61, started=NOW + 60)
    assert here.enter(KEY, NOW + 61)
    one.close()
    two.close()


_COUNT_UP = """
import sys
from pathlib import Path
from runner.gateway.state import SqliteState
state = SqliteState(Path(sys.argv[1]), busy=60)
for _ in range(100):
    state.update("n", "k", lambda old: {"n": (old or {"n": 0})["n"] + 1})
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    workers = [subprocess.Popen([sys.executable, "-c", _COUNT_UP, path]) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    state = SqliteState(path)
    assert state.records("n") == {"k": {"n": 300}}
    state.close()


def _spoil(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)


def _odd_record(path: Path) -> None:
    SqliteState(path).close()
    db = sqlite3.connect(path)
    db.execute("INSERT INTO states VALUES ('rest', ?, 'not json', 2e9)", (KEY.text,))
    db.commit()
    db.close()


def _another_table(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE states (other TEXT)")
    db.close()


@pytest.mark.parametrize("spoil", [_spoil, _odd_record, _another_table])
def test_a_file_that_cannot_be_read_is_only_a_lost_memory(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "gateway.db"
    spoil(path)
    state = SqliteState(path)
    rests = steady(state)
    assert wait(rests, NOW) == 0
    rests.failed(KEY, BROKEN, NOW, started=NOW, seconds=60.0)
    assert wait(rests, NOW) == 60
    state.close()


def test_a_file_that_cannot_be_written_costs_no_call(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "gateway.db")
    rests = steady(state)
    blocker = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    rests.failed(KEY, BROKEN, NOW, started=NOW, seconds=60.0)
    assert wait(rests, NOW) == 60
    blocker.execute("ROLLBACK")
    blocker.close()
    state.close()


def test_a_file_that_another_holds_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    state = SqliteState(path, busy=0.0)
    steady(state).failed(KEY, BROKEN, NOW, started=NOW, seconds=60.0)
    assert wait(steady(state), NOW) == 60
    state.close()
    holder.execute("CREATE TABLE kept (x)")
    holder.execute("COMMIT")
    assert holder.execute("SELECT name FROM sqlite_master").fetchall() == [("kept",)]
    holder.close()


def test_names_that_clients_make_up_do_not_fill_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    SqliteState(path).close()
    db = sqlite3.connect(path)
    rows = [("rest", str(n), "{}", NOW + n) for n in range(12_000)]
    db.executemany("INSERT INTO states VALUES (?, ?, ?, ?)", rows)
    db.commit()
    state = SqliteState(path, clock=lambda: NOW + 12_000)
    assert db.execute("SELECT count(*), min(at) FROM states").fetchone() == (10_000, NOW + 2_000)
    state.close()
    SqliteState(path, clock=lambda: NOW + 30 * 86_400).close()
    assert db.execute("SELECT count(*) FROM states").fetchone() == (0,)
    db.close()
