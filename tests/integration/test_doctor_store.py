"""What doctor says of the store, on each kind of database."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select, update

from runner.cli.check import Check, Grade
from runner.cli.checks_store import check_store
from runner.settings.layout import Layout
from runner.settings.secret import Secret
from runner.settings.tables import Store as StoreSettings
from runner.store import Place, Store
from runner.store import schema as t
from runner.store.migrations import HEAD
from runner.store.upgrade import version


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


async def checks(layout: Layout, place: Place) -> dict[str, Check]:
    settings = StoreSettings(url=Secret("" if isinstance(place, Path) else place))
    return {c.name: c async for c in check_store(layout, settings)}


async def on(place: Place, work: Callable[[Connection], Any]) -> Any:
    store = await Store.open(place)
    try:
        return await store.transact(work)
    finally:
        await store.close()


async def test_a_store_in_order_passes_and_is_as_it_was(layout: Layout, place: Place) -> None:
    rows = select(func.count()).select_from(t.meta)
    before = await on(place, lambda c: c.scalar(rows))
    found = await checks(layout, place)
    assert {name: c.grade for name, c in found.items()} == dict.fromkeys(
        ("store", "schema", "deliveries"), Grade.PASS
    )
    assert HEAD in found["schema"].found
    assert await on(place, lambda c: c.scalar(rows)) == before


async def test_a_store_that_is_not_made_yet_is_not_made_by_looking(layout: Layout) -> None:
    found = await checks(layout, layout.database)
    assert {name: c.grade for name, c in found.items()} == {"store": Grade.PASS}
    assert "first start" in found["store"].found
    assert list(layout.root.iterdir()) == []


async def test_an_empty_database_stays_empty(layout: Layout) -> None:
    layout.database.touch()
    for _ in range(2):
        assert "first start" in (await checks(layout, layout.database))["store"].found


async def test_an_older_schema_is_told_and_left_as_it_is(layout: Layout, place: Place) -> None:
    await on(place, lambda c: c.execute(update(version).values(version_num="0001")))
    for _ in range(2):
        found = await checks(layout, place)
        assert (found["schema"].grade, "0001" in found["schema"].found) == (Grade.WARN, True)
        assert "nanokimi serve" in found["schema"].fix


async def test_only_deliveries_that_were_rejected_in_the_last_day_are_a_warning(
    layout: Layout, place: Place
) -> None:
    now = time.time()
    ends = {"rejected": (now - 60, now - 90_000), "delivered": (now - 60,)}
    rows = [
        {
            "id": f"{state}-{at}",
            "group_id": "g",
            "turn_id": f"t-{state}-{at}",
            "ordinal": 0,
            "kind": "answer",
            "body": {},
            "channel": "webhook",
            "target": "http://x",
            "state": state,
            "attempts": 1,
            "next_at": at,
            "created_at": at,
            "since": at,
            "finished_at": at,
        }
        for state, times in ends.items()
        for at in times
    ]
    await on(place, lambda c: c.execute(insert(t.outbox), rows))
    found = (await checks(layout, place))["deliveries"]
    assert (found.grade, found.found.split()[0]) == (Grade.WARN, "1")
    assert "nanokimi groups show" in found.fix


@pytest.mark.parametrize(
    ("revision", "content"), [("9999", b""), ("", b"not a database, but long enough\n" * 100)]
)
async def test_a_store_that_cannot_be_used_fails_with_its_fix(
    layout: Layout, revision: str, content: bytes
) -> None:
    if revision:
        change = update(version).values(version_num=revision)
        await on(layout.database, lambda c: c.execute(change))
    else:
        layout.database.write_bytes(content)
    found = await checks(layout, layout.database)
    assert {name: c.grade for name, c in found.items()} == {"store": Grade.FAIL}
    assert found["store"].fix


async def test_a_server_that_is_away_fails_and_no_password_is_shown(layout: Layout) -> None:
    found = (await checks(layout, "postgresql://me:hunter2@127.0.0.1:1/x"))["store"]
    assert (found.grade, bool(found.fix)) == (Grade.FAIL, True)
    assert "hunter2" not in found.found + found.fix
