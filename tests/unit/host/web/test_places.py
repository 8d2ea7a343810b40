"""No group has all the places that groups share."""

import asyncio
from collections import Counter

import pytest

from runner.host.web.places import Places


async def test_a_group_that_takes_all_it_can_leaves_places_to_others() -> None:
    places, go, inside = Places(3, 2), asyncio.Event(), Counter[str]()

    async def stay(group: str) -> None:
        async with places.taken(group):
            inside[group] += 1
            await go.wait()

    async with asyncio.TaskGroup() as tasks:
        for group in ("greedy",) * 5 + ("modest", "late"):
            tasks.create_task(stay(group))
        await asyncio.sleep(0)
        assert inside == {"greedy": 2, "modest": 1}
        go.set()
    assert inside == {"greedy": 5, "modest": 1, "late": 1}
    assert not places._own


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    places = Places(1, 1)
    async with places.taken("a"):
        for group in ("a", "b"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), places.taken(group):
                    raise AssertionError
    async with asyncio.timeout(5), places.taken("b"):
        assert list(places._own) == ["b"]
