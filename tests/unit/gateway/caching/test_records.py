from __future__ import annotations

from pathlib import Path

import pytest

from runner.gateway.caching.records import MARGIN, Presence, Record, Records
from runner.gateway.state import MemoryState, SqliteState, StateStore

CACHE = Record("http://h/v1/caching", "f", 1000.0, "c-1", ready=True, workers=("w1",))
CLAIM = Record("http://h/v1/caching", "f", 60.0)


@pytest.fixture(params=["memory", "file"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> StateStore:
    return MemoryState() if request.param == "memory" else SqliteState(tmp_path / "state.db")


def test_one_worker_creates_a_cache_until_its_claim_ends(state: StateStore) -> None:
    one, two = Records(state, "w1"), Records(state, "w2")
    assert one.claim("k", CLAIM, 0.0)
    assert not two.claim("k", CLAIM, 59.0)
    assert two.claim("k", Record(CLAIM.address, "f", 120.0), 60.0)


def test_a_cache_can_be_claimed_anew_only_when_it_has_ended(state: StateStore) -> None:
    one = Records(state, "w1")
    one.put("k", CACHE)
    assert not one.claim("k", CLAIM, 1000.0 - MARGIN - 1)
    assert one.claim("k", CLAIM, 1000.0 - MARGIN)


def test_a_cache_that_ends_in_a_moment_is_not_used() -> None:
    assert CACHE.usable(1000.0 - MARGIN - 1)
    assert not CACHE.usable(1000.0 - MARGIN)


def test_a_worker_that_uses_a_cache_keeps_it_from_being_deleted(state: StateStore) -> None:
    one, two = Records(state, "w1"), Records(state, "w2")
    one.put("k", CACHE)
    two.extend("k", "c-1", 1000.0)
    one.leave("k")
    assert one.doomed() == []
    two.leave("k")
    assert [r.id for r in one.doomed()] == ["c-1"]
    assert two.find("k") is None


def test_an_end_never_moves_back(state: StateStore) -> None:
    one = Records(state, "w1")
    one.put("k", CACHE)
    one.extend("k", "c-1", 2000.0)
    one.extend("k", "c-1", 1500.0)
    found = one.find("k")
    assert found is not None
    assert found.until == 2000.0


def test_a_newer_cache_is_not_dropped_for_an_older_one(state: StateStore) -> None:
    one = Records(state, "w1")
    one.put("k", CACHE)
    one.drop("k", "c-0")
    assert one.find("k") == CACHE
    one.drop("k", "c-1")
    assert one.find("k") is None


def test_what_is_doomed_stays_until_it_is_deleted(tmp_path: Path) -> None:
    first = SqliteState(tmp_path / "state.db")
    Records(first, "w1").put("k", CACHE)
    Records(first, "w1").claim("other", CLAIM, 0.0)
    first.close()  # as a crash leaves it
    again = Records(SqliteState(tmp_path / "state.db"), "w2")
    again.doom_all()
    assert [again.find("k"), again.find("other")] == [None, None]
    assert again.doomed() == [CACHE]
    again.deleted("c-1")
    assert again.doomed() == []


def test_a_record_of_another_shape_is_none(state: StateStore) -> None:
    state.update("caches", "k", lambda _: {"id": 7})
    state.update("caches.doomed", "c", lambda _: {"nothing": True})
    records = Records(state, "w1")
    assert records.find("k") is None
    assert records.doomed() == []
    assert records.claim("k", CLAIM, 0.0)


async def test_the_first_that_comes_and_the_last_that_goes_know_it(tmp_path: Path) -> None:
    one, two = (Presence(tmp_path / "run" / "lock") for _ in range(2))
    assert await one.enter()
    one.settle()
    assert not await two.enter()
    two.settle()
    assert not one.leave()
    one.close()
    assert two.leave()
    two.close()


async def test_without_a_place_for_the_lock_nobody_thinks_to_be_alone(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    alone = Presence(tmp_path / "run" / "lock")
    assert not await alone.enter()
    alone.settle()
    assert not alone.leave()
    alone.close()
