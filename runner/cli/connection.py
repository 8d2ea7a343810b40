"""A running host to talk to: the one that serves this data directory, or one of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from runner.api.client import Api, other_version
from runner.api.token import api_token
from runner.cli.context import Context
from runner.errors import NotFoundError
from runner.host.lock import serving
from runner.settings.schema import Settings
from runner.store import Store, place_of


@asynccontextmanager
async def serving_api(context: Context) -> AsyncIterator[Api | None]:
    """The host that serves this data directory, ``None`` when none does."""
    other = serving(context.layout.host_lock)
    if other is None or not other.url:
        yield None
        return
    async with aclosing(Api(other.url, api_token(context.layout))) as api:
        try:
            yield api
        except ValueError as e:
            from pydantic import ValidationError  # only where its answers were read with it

            if isinstance(e, ValidationError):
                raise other_version() from e
            raise


@asynccontextmanager
async def connect(context: Context) -> AsyncIterator[Api]:
    """The host that serves this data directory; when none does, one for as long as the block."""
    async with serving_api(context) as api:
        if api is not None:
            yield api
            return
    from runner.api.server import serving_host  # loads the whole host: only where one is needed

    settings = context.settings()
    await _check_login(context, settings)
    async with (
        serving_host(context.layout, settings, "127.0.0.1", 0) as served,
        aclosing(Api(served.url, api_token(context.layout))) as own,
    ):
        yield own


@asynccontextmanager
async def offline_store(context: Context) -> AsyncIterator[Store]:
    """The store of a data directory that no host serves. Raises: NotFoundError: there is none."""
    layout = context.layout
    if not (layout.database.exists() or layout.config.exists()):  # looking makes nothing
        raise NotFoundError(
            f"there is no nanokimi in {context.data} yet",
            hint="nanokimi init, or name its directory with --data",
        )
    configured = layout.config.exists()
    place = place_of(layout, context.settings().store) if configured else layout.database
    store = await Store.open(place)
    try:
        yield store
    finally:
        await store.close()


async def _check_login(context: Context, settings: Settings) -> None:
    """Better no message than one that is kept for a login that nobody has made yet."""
    from runner.host.credentials import Credentials

    credentials = Credentials(context.layout.credentials)
    try:
        await credentials.check(settings.for_group("check").provider)
    finally:
        await credentials.aclose()
