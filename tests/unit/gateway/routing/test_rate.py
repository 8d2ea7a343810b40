from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.gateway.rate import MAX_GROUPS, MINUTE, Bucket, take

NOW = 1_800_000_000.0


def taken(
    bucket: Bucket | None, now: float, rpm: int, group: str, times: int
) -> tuple[Bucket, int]:
    """How many of ``times`` requests get through."""
    through = 0
    for _ in range(times):
        bucket, wait = take(bucket, now, rpm=rpm, group=group)
        through += wait == 0
    assert bucket is not None
    return bucket, through


def test_a_full_bucket_gives_its_minute_at_once_and_then_drop_by_drop() -> None:
    bucket, through = taken(None, NOW, 60, "g", 100)
    assert through == 60
    bucket, through = taken(bucket, NOW + 5, 60, "g", 100)
    assert through == 5


def test_the_wait_that_is_named_is_long_enough_and_no_longer() -> None:
    bucket, _ = taken(None, NOW, 7, "g", 7)
    bucket, wait = take(bucket, NOW, rpm=7, group="g")
    assert wait > 0
    assert take(bucket, NOW + wait * 0.99, rpm=7, group="g")[1] > 0
    assert take(bucket, NOW + wait * 1.001, rpm=7, group="g")[1] == 0


def test_a_group_that_took_it_all_lets_the_others_have_their_share() -> None:
    bucket, through = taken(None, NOW, 100, "greedy", 1000)
    assert through == 100  # alone, all of it is its own
    fair = {"greedy": 0, "modest": 0}
    for second in range(1, 31):
        for group in fair:  # the greedy one always asks first
            bucket, through = taken(bucket, NOW + second, 100, group, 5)
            fair[group] += through
    assert fair["modest"] > 5 * fair["greedy"]
    assert fair["modest"] + fair["greedy"] >= 45


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.sampled_from(["a", "b", "c"])), min_size=1, max_size=200
    ),
    st.integers(1, 50),
)
def test_no_minute_has_more_requests_than_bucket_and_refill(
    asks: list[tuple[float, str]], rpm: int
) -> None:
    bucket, now, times = None, NOW, []
    for pause, group in asks:
        now += pause
        bucket, wait = take(bucket, now, rpm=rpm, group=group)
        if wait == 0:
            times.append(now)
        assert Bucket.from_dict(bucket.as_dict()) == bucket
    for begin in times:
        assert sum(begin <= t < begin + MINUTE for t in times) <= 2 * rpm


def test_a_clock_that_was_set_back_gives_nothing_away() -> None:
    bucket, _ = taken(None, NOW, 10, "g", 10)
    assert take(bucket, NOW - 3600, rpm=10, group="g")[1] > 0


def test_groups_without_number_do_not_fill_the_memory() -> None:
    bucket: Bucket | None = None
    for n in range(MAX_GROUPS + 50):
        bucket, _ = take(bucket, NOW, rpm=10**6, group=str(n))
    assert bucket is not None
    assert len(bucket.taken) == MAX_GROUPS


def test_a_record_that_cannot_be_read_is_a_full_bucket() -> None:
    assert Bucket.from_dict({"left": "x"}) is None
    assert Bucket.from_dict(None) is None
