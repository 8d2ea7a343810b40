"""The wall clock of the host is set while it works: nothing waits for it, nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rig import log_in, write_config
from served import LISTEN, Served

from runner.api.client import Api, ServerEvent
from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout

HOUR = 3600.0

# The product with a wall clock that is as far ahead as a file says.
STEPPED = """
import sys, time
from pathlib import Path

ahead_file = Path(sys.argv.pop(1))
now, now_ns = time.time, time.time_ns

def ahead():
    try:
        return float(ahead_file.read_text())
    except (OSError, ValueError):
        return 0.0

time.time = lambda: now() + ahead()
time.time_ns = lambda: now_ns() + int(ahead() * 1e9)
from runner.cli.main import main
main(sys.argv[1:])
"""


class Stepped:
    """A served host and the hand on its clock."""

    def __init__(self, served: Served, provider: DemoProvider, clock: Path) -> None:
        self.served = served
        self.provider = provider
        self._clock = clock

    def step(self, ahead: float) -> None:
        """Set the wall clock to so many seconds ahead of the real one."""
        self._clock.write_text(str(ahead))

    async def say(self, api: Api, group: str, text: str) -> list[ServerEvent]:
        async with asyncio.timeout(30):
            return [e async for e in api.send(group, {"text": text})]


@pytest.fixture
async def stepped(tmp_path: Path) -> AsyncIterator[Stepped]:
    layout = Layout(tmp_path / "data")
    program, clock = tmp_path / "stepped.py", tmp_path / "ahead"
    program.write_text(STEPPED)
    async with DemoProvider() as provider:
        write_config(layout, provider, more=LISTEN)
        log_in(layout, provider, 100 * HOUR)
        served = Served(layout, program=(str(program), str(clock)))
        await served.start()
        try:
            yield Stepped(served, provider, clock)
        finally:
            await served.stop()


async def test_messages_are_answered_whichever_way_the_clock_is_set(stepped: Stepped) -> None:
    api = stepped.served.api()
    ids: list[int] = []
    for number, ahead in enumerate((0.0, HOUR, -HOUR, 30 * HOUR, 0.0)):
        stepped.step(ahead)
        events = await stepped.say(api, "g", f"!say answer {number}")
        assert events[-1].kind == "turn.finished"
        assert events[-1].data["text"] == f"answer {number}"
        ids += [e.id for e in events]
    assert ids == sorted(set(ids))  # a listener can resume at any of them
    await api.aclose()


async def test_a_turn_that_waits_to_be_tried_again_does_not_wait_for_a_clock_set_back(
    stepped: Stepped,
) -> None:
    api = stepped.served.api()
    await stepped.say(api, "g", "hello")
    stepped.provider.faults.add(Fault("chat", status=500), times=3)
    talk = asyncio.create_task(stepped.say(api, "g", "!say still here"))
    await stepped.provider.wait_for(lambda _: stepped.provider.faults.waiting < 3)
    stepped.step(-HOUR)
    events = await talk
    assert events[-1].kind == "turn.finished"
    assert events[-1].data["text"] == "still here"
    await api.aclose()


async def test_a_host_that_starts_with_an_older_clock_goes_on_with_newer_events(
    stepped: Stepped,
) -> None:
    stepped.step(HOUR)
    api = stepped.served.api()
    before = await stepped.say(api, "g", "!say one")
    await api.aclose()
    await stepped.served.kill()
    stepped.step(-HOUR)
    await stepped.served.start()
    api = stepped.served.api()
    after = await stepped.say(api, "g", "!say two")
    assert after[-1].data["text"] == "two"
    assert min(e.id for e in after) > max(e.id for e in before)
    await api.aclose()
