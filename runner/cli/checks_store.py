"""What doctor looks at to say whether messages can be kept, and whether answers arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator

from runner.cli.check import Check, Grade, failed
from runner.errors import NanokimiError
from runner.settings.layout import Layout
from runner.settings.tables import Store as StoreSettings


async def check_store(layout: Layout, settings: StoreSettings) -> AsyncIterator[Check]:
    """The database, its schema, and what could not be delivered. Nothing is changed."""
    from runner.store import place_of
    from runner.store.inspection import StoreReport, inspect_store

    try:
        found: StoreReport = await inspect_store(place_of(layout, settings))
    except NanokimiError as e:
        yield failed("store", e)
        return
    if not found.revision:
        yield Check("store", Grade.PASS, f"{found.where}: made at the first start")
        return
    yield Check("store", Grade.PASS, f"{found.where} can be written")
    yield check_schema(found.revision, found.newest)
    yield check_deliveries(found.rejected)


def check_schema(revision: str, newest: str) -> Check:
    """Whether the tables are what this release needs."""
    if revision == newest:
        return Check("schema", Grade.PASS, f"up to date ({revision})")
    return Check(
        "schema",
        Grade.WARN,
        f"of an older release ({revision}, this one has {newest})",
        "back up the data, then start `nanokimi serve`: it upgrades the schema",
    )


def check_deliveries(rejected: int) -> Check:
    """What bots have refused in the last day."""
    if not rejected:
        return Check("deliveries", Grade.PASS, "none was rejected in the last day")
    return Check(
        "deliveries",
        Grade.WARN,
        f"{rejected} were rejected in the last day: bots have not got them",
        "`nanokimi groups list` counts them, `nanokimi groups show GROUP` says why",
    )
