"""When tasks are due, also where clocks are changed."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import PermanentError
from runner.schedule import (
    Schedule,
    ScheduleKind,
    describe,
    following,
    local_time,
    next_run,
    parse_schedule,
)

CRON, INTERVAL, ONCE = ScheduleKind.CRON, ScheduleKind.INTERVAL, ScheduleKind.ONCE
NOW = datetime(2027, 1, 1, 12, tzinfo=UTC).timestamp()


def at(text: str, zone: str = "UTC") -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))).timestamp()


def parsed(
    kind: ScheduleKind, text: str, zone: str = "UTC", *, now: float = NOW, least: float = 60.0
) -> Schedule:
    return parse_schedule(kind, text, zone, now=now, min_interval=least)


def runs(cron: str, zone: str, start: str, count: int) -> list[str]:
    """The next runs, each asked for anew, as a host does."""
    schedule = parsed(CRON, cron, zone)
    found, after = [], at(start, zone)
    for _ in range(count):
        run = next_run(schedule, after)
        assert run is not None
        assert run > after
        found.append(local_time(run, zone))
        after = run
    return found


def refusal(kind: ScheduleKind, text: str, zone: str = "UTC", least: float = 300.0) -> str:
    with pytest.raises(PermanentError) as e:
        parsed(kind, text, zone, least=least)
    assert e.value.hint
    return f"{e.value.code}: {e.value.message}"


# -- daylight saving --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "cron", "start", "expected"),
    [
        ("Europe/Zurich", "30 2 * * *", "2027-03-27T12:00", "2027-03-28T03:00:00+02:00"),
        ("Australia/Sydney", "30 2 * * *", "2027-10-02T12:00", "2027-10-03T03:00:00+11:00"),
        ("Australia/Lord_Howe", "15 2 * * *", "2027-10-02T12:00", "2027-10-03T02:30:00+11:00"),
        ("Africa/Cairo", "0 0 * * *", "2027-04-29T12:00", "2027-04-30T01:00:00+03:00"),
        ("Pacific/Apia", "0 9 30 12 *", "2011-12-29T12:00", "2011-12-31T00:00:00+14:00"),
    ],
)
def test_a_time_that_does_not_exist_comes_when_the_gap_ends(
    zone: str, cron: str, start: str, expected: str
) -> None:
    first, second = runs(cron, zone, start, 2)
    assert first == expected
    assert second[:10] > first[:10]


@pytest.mark.parametrize(
    ("zone", "start", "expected"),
    [
        (
            "Europe/Zurich",
            "2027-10-30T12:00",
            ["2027-10-31T02:30:00+02:00", "2027-11-01T02:30:00+01:00"],
        ),
        (
            "Australia/Sydney",
            "2027-04-03T12:00",
            ["2027-04-04T02:30:00+11:00", "2027-04-05T02:30:00+10:00"],
        ),
    ],
)
def test_a_time_that_exists_twice_comes_once(zone: str, start: str, expected: list[str]) -> None:
    assert runs("30 2 * * *", zone, start, 2) == expected


def test_a_host_that_starts_in_the_repeated_hour_does_not_go_back() -> None:
    schedule = parsed(CRON, "30 2 * * *", "Europe/Zurich")
    repeated = at("2027-10-31T02:10+01:00")
    run = next_run(schedule, repeated)
    assert run is not None
    assert local_time(run, "Europe/Zurich") == "2027-11-01T02:30:00+01:00"


def test_an_hourly_task_runs_in_each_hour_that_passes() -> None:
    assert runs("0 * * * *", "Europe/Zurich", "2027-10-31T00:30", 4) == [
        "2027-10-31T01:00:00+02:00",
        "2027-10-31T02:00:00+02:00",
        "2027-10-31T02:00:00+01:00",
        "2027-10-31T03:00:00+01:00",
    ]
    assert runs("0 * * * *", "Europe/Zurich", "2027-03-28T00:30", 3) == [
        "2027-03-28T01:00:00+01:00",
        "2027-03-28T03:00:00+02:00",
        "2027-03-28T04:00:00+02:00",
    ]


def test_nine_o_clock_stays_nine_o_clock_over_the_change() -> None:
    assert runs("0 9 * * *", "America/New_York", "2027-03-13T08:00", 2) == [
        "2027-03-13T09:00:00-05:00",
        "2027-03-14T09:00:00-04:00",
    ]


def test_the_same_words_in_another_zone_are_another_time() -> None:
    zurich, tokyo = (
        next_run(parsed(CRON, "0 9 * * *", zone), NOW) for zone in ("Europe/Zurich", "Asia/Tokyo")
    )
    assert zurich == at("2027-01-02T09:00+01:00")
    assert tokyo == at("2027-01-02T09:00+09:00")


def test_the_leap_day_comes_in_leap_years() -> None:
    assert runs("0 9 29 2 *", "UTC", "2027-01-01", 2) == [
        "2028-02-29T09:00:00+00:00",
        "2032-02-29T09:00:00+00:00",
    ]


@given(
    st.sampled_from(["Europe/Zurich", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia"]),
    st.sampled_from(["30 2 * * *", "0,30 1-3 * * *", "*/20 * * * *", "59 23 * * 6", "0 0 1 * *"]),
    st.floats(0, 2**32),
)
def test_the_next_run_is_always_later_and_the_same_until_it_comes(
    zone: str, cron: str, after: float
) -> None:
    schedule = Schedule(CRON, cron, zone)
    run = next_run(schedule, after)
    assert run is not None
    assert run > after
    between = after + (run - after) / 2
    if between > after and "*/" not in cron:
        assert (again := next_run(schedule, between)) is not None
        # From within a repeated hour the time may have been the first of two: then it is over.
        assert again >= run


# -- intervals and times ------------------------------------------------------------------------


def test_an_interval_keeps_its_beat_over_a_downtime() -> None:
    schedule = parsed(INTERVAL, "30m")
    assert schedule.spec == "1800"
    assert following(schedule, NOW, NOW + 5) == NOW + 1800
    assert following(schedule, NOW, NOW + 1800) == NOW + 3600
    assert following(schedule, NOW, NOW + 10 * 1800 + 7) == NOW + 11 * 1800


@given(st.floats(0.01, 1e6), st.floats(0, 4e9), st.floats(0, 1e6))
def test_what_follows_is_after_now_and_on_the_beat(seconds: float, due: float, late: float) -> None:
    schedule = Schedule(INTERVAL, f"{seconds:.3f}")
    coming = following(schedule, due, due + late)
    assert coming is not None
    assert coming > due + late
    assert coming - (due + late) <= float(schedule.spec) + 1e-3


def test_a_long_interval_is_not_rounded() -> None:
    assert next_run(parsed(INTERVAL, "1234567"), NOW) == NOW + 1234567


def test_a_time_without_offset_is_of_the_zone() -> None:
    schedule = parsed(ONCE, "2027-07-01T09:00", "Europe/Zurich")
    assert next_run(schedule, NOW) == at("2027-07-01T09:00+02:00")
    assert next_run(parsed(ONCE, "2027-07-01T09:00Z", "Europe/Zurich"), NOW) == at(
        "2027-07-01T09:00Z"
    )
    assert describe(schedule) == "once, 2027-07-01T09:00:00+02:00"


def test_a_time_comes_once() -> None:
    schedule = parsed(ONCE, "2027-07-01T09:00")
    run = next_run(schedule, NOW)
    assert run is not None
    assert next_run(schedule, run) is None
    assert following(schedule, run, run + 5) is None


@pytest.mark.parametrize(
    ("zone", "text", "expected"),
    [
        ("Europe/Zurich", "2027-03-28T02:30", "2027-03-28T03:00:00+02:00"),
        ("Europe/Zurich", "2027-10-31T02:30", "2027-10-31T02:30:00+02:00"),
        ("Australia/Lord_Howe", "2027-10-03T02:15", "2027-10-03T02:30:00+11:00"),
    ],
)
def test_a_time_in_a_change_of_clocks_is_the_one_cron_would_take(
    zone: str, text: str, expected: str
) -> None:
    run = next_run(parsed(ONCE, text, zone), NOW)
    assert run is not None
    assert local_time(run, zone) == expected


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (CRON, "61 * * * *", "has a bad minute"),
        (CRON, "0 9 * *", "has 4 fields"),
        (CRON, "0 0 9 * * 1", "has 6 fields"),
        (CRON, "0 0 31 2 *", "bad day-of-month"),
        (CRON, "0 0 * 2 1#6", "bad day-of-week"),
        (CRON, "0 0 */20 * 1L", "never comes"),
        (CRON, "* * * * *", "comes every 1 min"),
        (CRON, "0,3 9 1 1 *", "comes every 3 min"),
        (CRON, "0,59 * * * *", "comes every 1 min"),
        (CRON, "0,59 0,23 * * *", "comes every 1 min"),
        (CRON, "0 ٣ * * *", "is no cron schedule"),
        (CRON, "0 " * 200, "is no cron schedule"),
        (INTERVAL, "10s", "the interval is 10 s, and 5 min must lie between two runs"),
        (INTERVAL, "-5", "must be a duration"),
        (INTERVAL, "soon", "must be a duration"),
        (INTERVAL, "1000d", "longer than a year"),
        (ONCE, "2026-12-31T23:59", "in the past"),
        (ONCE, "tomorrow", "is no time"),
        (ONCE, "0001-01-01T00:00+14:00", "is no time"),
        (ONCE, "9999-12-31T23:59", "too far away"),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused(
    kind: ScheduleKind, text: str, told: str
) -> None:
    assert told in refusal(kind, text)


@pytest.mark.parametrize(
    "zone",
    [
        "Mars/Olympus",
        "",
        "../../etc/passwd",
        "UTC\0",
        "UTC+3",
        "Europe",
        "localtime",
        "right/UTC",
        "posix/UTC",
        "Europe/Zürich",
    ],
)
def test_an_unknown_zone_is_refused(zone: str) -> None:
    assert refusal(CRON, "0 9 * * *", zone).startswith("bad_timezone")


@pytest.mark.parametrize(
    "cron", ["0 9 * * 1-5", "*/5 * * * *", "0 9 * jan-mar mon,fri", "0 0 1 * *", "0 0 L * *"]
)
def test_a_cron_that_leaves_enough_between_is_taken(cron: str) -> None:
    assert parsed(CRON, f"  {cron} ", least=300.0).spec == cron


@given(st.text(max_size=60) | st.text("0123456789*/,-#LW MONFRIJAN", max_size=40))
def test_any_text_is_taken_or_refused(text: str) -> None:
    for kind in ScheduleKind:
        try:
            schedule = parsed(kind, text)
        except PermanentError:
            continue
        run = next_run(schedule, NOW)
        assert run is not None
        assert run > NOW
        assert parsed(kind, schedule.spec) == schedule
