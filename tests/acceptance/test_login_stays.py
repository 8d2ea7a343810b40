"""Nobody is logged out by us: a login under everything that can go wrong with it.

The access tokens live two seconds, two hosts share one login, and all their groups talk all the
time. ``make chaos-login`` runs the same with more sandboxes, round after round for a minute.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from storm import LIFETIME, Storm, no_room, small_disk

from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.oauth.endpoint import DEADLINE

GROUPS = int(os.environ.get("NANOKIMI_STORM_GROUPS", "4"))  # of each kind
SECONDS = float(os.environ.get("NANOKIMI_STORM_SECONDS", "0"))
HOUR = 3600.0


async def server_errors(storm: Storm) -> None:
    storm.provider.faults.add(Fault("token", status=500), times=2)
    await _met(storm)


async def too_many_requests(storm: Storm) -> None:
    storm.provider.faults.add(Fault("token", status=429, headers={"Retry-After": "1"}), times=2)
    await _met(storm)


async def slow_answers(storm: Storm) -> None:
    """Slower than an access token lives."""
    storm.provider.faults.add(Fault("token", delay=LIFETIME + 0.5))
    await _met(storm)


async def silence(storm: Storm) -> None:
    """Longer than we wait for an answer: the request has come to nothing."""
    storm.provider.faults.add(Fault("token", status=503, delay=DEADLINE + 1))
    await _met(storm)


async def _met(storm: Storm) -> None:
    """All faults were met, the login has been renewed after them, and every group goes on."""
    await storm.until(lambda: not storm.provider.faults.waiting, "the faults are met")
    before = storm.provider.refreshes
    await storm.until(lambda: storm.provider.refreshes > before, "the login is renewed")
    await storm.progress()


async def clock_steps(storm: Storm) -> None:
    for ahead in (HOUR, -HOUR, 0.0):
        storm.clock.write_text(str(ahead))
        await storm.progress()


async def killed_before_the_rename(storm: Storm) -> None:
    await _killed(storm, "before-rename")


async def killed_after_the_rename(storm: Storm) -> None:
    await _killed(storm, "after-rename")


async def _killed(storm: Storm, moment: str) -> None:
    (storm.orders[0] / moment).touch()
    assert await storm.hosts[0].died() == -9
    await storm.hosts[0].start()
    await storm.progress()


async def disk_full(storm: Storm) -> None:
    """Nothing is spent that could not be saved; the messages wait for room."""
    with no_room(storm.credentials):
        await storm.until(
            lambda: {g.partition("-")[0] for g in storm.told_to_wait()} == {"one", "two"},
            "both hosts say that they wait",
        )
    await storm.progress()


SURVIVED: dict[str, Callable[[Storm], Awaitable[None]]] = {
    "token endpoint answers 500": server_errors,
    "token endpoint answers 429": too_many_requests,
    "token endpoint slower than a token lives": slow_answers,
    "clock an hour ahead, then behind, then right": clock_steps,
    "kill -9 before the renewed file is in place": killed_before_the_rename,
    "kill -9 right after": killed_after_the_rename,
    "disk full": disk_full,
}
if SECONDS:  # it takes its time
    SURVIVED["token endpoint silent for 21 s"] = silence


async def cut_after_processing(storm: Storm) -> None:
    before = storm.told_to_wait()
    storm.provider.faults.add(Fault("token", cut_after=0))
    await _lost_and_found(storm, before)


async def killed_with_the_pair_in_memory(storm: Storm) -> None:
    before = storm.told_to_wait()
    (storm.orders[0] / "before-write").touch()
    assert await storm.hosts[0].died() == -9
    await storm.hosts[0].start()
    await _lost_and_found(storm, before)


async def _lost_and_found(storm: Storm, before: Counter[str]) -> None:
    """Every chat is told once, and a new login answers what has waited."""
    once = before + Counter(list(storm.groups))
    await storm.until(lambda: storm.told_to_wait() >= once, "every chat is told")
    last = dict(storm.waits())
    for group in storm.groups:
        told = last[group]
        assert told["code"] == "login_required"
        assert "nanokimi login" in told["reason"]
    later = [asyncio.create_task(storm.say(group)) for group in storm.groups]
    await storm.log_in_again()
    await asyncio.gather(*later)
    assert storm.told_to_wait() == once


# The provider has rotated and nobody has the new pair: no client can survive that.
LOST: dict[str, Callable[[Storm], Awaitable[None]]] = {
    "connection cut after the request was processed": cut_after_processing,
    "kill -9 with the new pair in memory only": killed_with_the_pair_in_memory,
}


@pytest.mark.timeout(900 if SECONDS else 120)
async def test_a_login_stays_through_everything_that_the_protocol_lets_it_survive(
    tmp_path: Path,
) -> None:
    async with DemoProvider(access_lifetime=LIFETIME, poll_interval=0.1) as provider:
        storm = Storm(tmp_path, provider, GROUPS)
        with small_disk(storm.credentials):
            async with storm.raging():
                await storm.progress()
                end = time.monotonic() + SECONDS
                while True:
                    await _round(storm)
                    if time.monotonic() >= end:
                        break
            print(f"\n{storm.table()}")
            assert storm.missing() == []


async def _round(storm: Storm) -> None:
    for name, inject in SURVIVED.items():
        with storm.phase(name) as result:
            await inject(storm)
        (seen,) = result
        assert (seen.lost, seen.replayed) == (0, 0), storm.table()
        assert seen.refreshes > 0, storm.table()
        if inject is not disk_full:
            assert seen.told_to_wait == 0, storm.waits()
    for name, inject in LOST.items():
        with storm.phase(name) as result:
            await inject(storm)
        (seen,) = result
        # Whether a request got through cannot be known: asking once more is what shows it.
        assert seen.replayed == 1, storm.table()
