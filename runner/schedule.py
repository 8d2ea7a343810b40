"""When a task is due: rules of schedules as pure functions, without a clock.

A schedule's words are checked once, by :func:`parse_schedule`; what has been stored is trusted.
Times are Unix seconds. What happens where a local time is missing or comes twice is written in
``docs/decisions`` and in :func:`next_run`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from runner.errors import PermanentError
from runner.settings.problem import Wrong, shorten
from runner.settings.units import parse_duration

MAX_CRON_CHARS = 200
SHORTEST_INTERVAL = 0.01
LONGEST_INTERVAL = 366 * 86_400.0
FARTHEST = 10 * 366 * 86_400.0

# How far a cron schedule is looked ahead for two runs that follow too soon. Every day that has
# runs has them at the same times, so what is not found among these is not there.
_LOOKED_AT = 1_500
_LOOKED_FOR = timedelta(days=5 * 366)

# Looking a name up is quick; reading all that there are would hold up an event loop.
_ZONE = re.compile(r"[A-Za-z][\w+-]*(?:/[\w+-]+)*", re.ASCII)
_NOT_IANA = ("posix", "right/", "localtime")  # what machines have beside

_CRON_FIX = (
    'write five fields, minute hour day month weekday: "0 9 * * 1-5" is nine o\'clock on '
    "weekdays; ranges of weekdays go from 0 or SUN to 6 or SAT"
)
_ONCE_FIX = 'write it like "2027-01-31T09:00", or with an offset "2027-01-31T09:00+01:00"'


class ScheduleKind(StrEnum):
    CRON = "cron"
    INTERVAL = "interval"
    ONCE = "once"


@dataclass(frozen=True, slots=True)
class Schedule:
    """``spec``: five fields of cron; seconds; or an ISO 8601 time with its offset.

    ``timezone`` is an IANA name: cron fields are of that place, and times are shown in it.
    """

    kind: ScheduleKind
    spec: str
    timezone: str = "UTC"


def parse_schedule(
    kind: ScheduleKind, text: str, timezone: str, *, now: float, min_interval: float
) -> Schedule:
    """A schedule of what somebody wrote, with at least one run after ``now``.

    Args:
        text: a cron expression, a duration such as ``"30m"``, or a time.
        min_interval: seconds that must lie between two runs.

    Raises:
        PermanentError: ``bad_timezone``, or ``bad_schedule`` with the fix.
    """
    zone = ZoneInfo(check_timezone(timezone))
    match kind:
        case ScheduleKind.CRON:
            return _cron(text, timezone, now, min_interval)
        case ScheduleKind.INTERVAL:
            return _interval(text, timezone, min_interval)
        case ScheduleKind.ONCE:
            return _once(text, timezone, zone, now)


def next_run(schedule: Schedule, after: float) -> float | None:
    """The first time strictly after ``after``; ``None`` when there is none.

    Where clocks are set forward, a cron time that is left out comes when the gap ends; where they
    are set back, a time that comes twice is due the first time only. Cron schedules whose minute
    or hour begins with ``*`` go by elapsed time instead, so an hourly one runs in both hours.
    """
    match schedule.kind:
        case ScheduleKind.INTERVAL:
            return after + float(schedule.spec)
        case ScheduleKind.ONCE:
            at = datetime.fromisoformat(schedule.spec).timestamp()
            return at if at > after else None
        case ScheduleKind.CRON:
            return _next_cron(schedule.spec, ZoneInfo(schedule.timezone), after)


def following(schedule: Schedule, due: float, now: float) -> float | None:
    """The run after the one that was due at ``due``: the first that is also after ``now``.

    Runs in between are left out. Intervals keep their beat: the time that work or a downtime took
    does not move them.
    """
    if schedule.kind is not ScheduleKind.INTERVAL:
        return next_run(schedule, max(due, now))
    seconds = float(schedule.spec)
    steps = max(1, math.floor((now - due) / seconds) + 1)
    while due + steps * seconds <= now:  # floats of this size are coarse
        steps += 1
    return due + steps * seconds


def check_timezone(name: str) -> str:
    """The IANA name of a time zone. Raises: PermanentError: ``bad_timezone``."""
    try:
        if _ZONE.fullmatch(name) and not name.startswith(_NOT_IANA):
            return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass  # a part of a name is a directory
    raise PermanentError(
        f'there is no time zone "{shorten(name, 40)}"',
        hint='use an IANA name such as "Europe/Zurich" or "UTC"',
        code="bad_timezone",
    )


def local_time(at: float, timezone: str) -> str:
    """A time as people of the zone write it: ISO 8601 with the offset."""
    return datetime.fromtimestamp(at, ZoneInfo(timezone)).isoformat(timespec="seconds")


def describe(schedule: Schedule) -> str:
    """The schedule in a few words: ``cron 0 9 * * 1-5, Europe/Zurich``."""
    match schedule.kind:
        case ScheduleKind.CRON:
            return f"cron {schedule.spec}, {schedule.timezone}"
        case ScheduleKind.INTERVAL:
            return f"every {_duration(float(schedule.spec))}"
        case ScheduleKind.ONCE:
            at = datetime.fromisoformat(schedule.spec).timestamp()
            return f"once, {local_time(at, schedule.timezone)}"


def _cron(text: str, timezone: str, now: float, min_interval: float) -> Schedule:
    spec = " ".join(text.split())
    shown = f'the cron schedule "{shorten(spec, 60)}"'
    if len(spec) > MAX_CRON_CHARS or not spec.isascii():
        raise _bad(f"{shown} is no cron schedule", _CRON_FIX)
    if (count := len(spec.split())) != 5:
        raise _bad(f"{shown} has {count} fields", _CRON_FIX)
    try:
        first = _next_cron(spec, ZoneInfo(timezone), now)
    except CronSimError as e:
        raise _bad(f"{shown} has a {str(e).lower()}", _CRON_FIX) from None
    if first is None:
        raise _bad(f"{shown} never comes", "choose days that there are")
    gap = _shortest_gap(spec, datetime.fromtimestamp(now, UTC).replace(tzinfo=None), min_interval)
    if gap < min_interval:
        raise _too_often(f"{shown} comes every {_duration(gap)} at times", min_interval)
    return Schedule(ScheduleKind.CRON, spec, timezone)


def _interval(text: str, timezone: str, min_interval: float) -> Schedule:
    try:
        seconds = parse_duration(text)
    except Wrong as e:
        raise _bad(f"the interval {e.text}", e.fix) from None
    if seconds < max(min_interval, SHORTEST_INTERVAL):
        raise _too_often(f"the interval is {_duration(seconds)}", min_interval)
    if seconds > LONGEST_INTERVAL:
        raise _bad("the interval is longer than a year", "use a cron schedule")
    return Schedule(ScheduleKind.INTERVAL, _number(seconds), timezone)


def _once(text: str, timezone: str, zone: ZoneInfo, now: float) -> Schedule:
    try:
        written = datetime.fromisoformat(text.strip())
        if written.tzinfo is None:
            written = _first_existing(written, zone)
        at = written.timestamp()
        spec = datetime.fromtimestamp(at, zone).isoformat()
    except (ValueError, OverflowError):
        raise _bad(f'"{shorten(text, 60)}" is no time', _ONCE_FIX) from None
    if at <= now:
        raise _bad(
            f"{local_time(at, timezone)} is in the past: it is {local_time(now, timezone)}",
            "choose a time to come; one without an offset is read as of the time zone",
        )
    if at > now + FARTHEST:
        raise _bad(f"{local_time(at, timezone)} is too far away", "is the year right?")
    return Schedule(ScheduleKind.ONCE, spec, timezone)


def _next_cron(spec: str, zone: ZoneInfo, after: float) -> float | None:
    runs = CronSim(spec, datetime.fromtimestamp(after, zone))
    # Begun within an hour that comes twice, it may name times of that hour's first passing.
    for run in runs:
        if (at := run.timestamp()) > after:
            return at
    return None


def _shortest_gap(spec: str, start: datetime, enough: float) -> float:
    """Seconds between two runs; the search ends at the first that is less than ``enough``."""
    shortest = math.inf
    before: datetime | None = None
    for count, run in enumerate(CronSim(spec, start)):
        if before is not None:
            shortest = min(shortest, (run - before).total_seconds())
        if shortest < enough or count >= _LOOKED_AT or run - start > _LOOKED_FOR:
            break
        before = run
    return shortest


def _first_existing(local: datetime, zone: ZoneInfo) -> datetime:
    """A local time in its zone; where clocks skip it, the moment when they have."""
    aware = local.replace(tzinfo=zone)
    back = aware.astimezone(UTC).astimezone(zone)
    if back.replace(tzinfo=None) == local:
        return aware
    # The offset before the change, applied to a time in the gap, lands as far after its end as the
    # time is after its beginning; the offset after the change lands as far before.
    low, high = aware.replace(fold=1).timestamp(), aware.timestamp()
    offset = datetime.fromtimestamp(low, zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(math.floor(high), zone)


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{_number(seconds / size)} {unit}"
    return f"{_number(seconds)} s"


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _too_often(what: str, min_interval: float) -> PermanentError:
    return _bad(
        f"{what}, and {_duration(min_interval)} must lie between two runs",
        "let it run less often, or lower [tools.schedule_task] min_interval",
    )


def _bad(message: str, hint: str) -> PermanentError:
    return PermanentError(message, hint=hint, code="bad_schedule")
