"""A look at a database that changes nothing: can it be used, and is it up to date?"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, insert, select
from sqlalchemy.exc import DBAPIError

from runner.model import DeliveryState
from runner.store import schema as t
from runner.store.database import Place, explain, open_engine
from runner.store.migrations import HEAD
from runner.store.upgrade import revision

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What was found.

    ``where`` has no password. ``revision`` is the last step of the schema that was taken, empty
    when there are no tables yet, and ``newest`` the last one that this release has. ``rejected``
    counts deliveries that were given up in the last 24 hours; 0 while the schema is another.
    """

    where: str
    revision: str = ""
    newest: str = HEAD
    rejected: int = 0


async def inspect_store(place: Place) -> StoreReport:
    """Open the database, write into it and take that back, and look.

    A database that an older release has written is left as it is; a missing file is not made.

    Raises:
        ConfigError, PermanentError, TemporaryError: it cannot be used; says the fix.
    """
    if isinstance(place, Path) and not place.exists():
        return StoreReport(str(place))
    return await asyncio.to_thread(_inspect, place)


def _inspect(place: Place) -> StoreReport:
    engine = open_engine(place)
    try:
        with engine.connect() as c, c.begin() as transaction:
            found = revision(c) or ""
            if not found:
                t.meta.create(c)
            c.execute(insert(t.meta).values(key="doctor", value=""))
            transaction.rollback()
        return StoreReport(_where(engine), found, rejected=_rejected(engine, found))
    except DBAPIError as e:
        raise explain(e, engine.url) from None
    finally:
        engine.dispose()


def _rejected(engine: Engine, found: str) -> int:
    if found != HEAD:
        return 0
    query = select(func.count()).where(
        t.outbox.c.state == DeliveryState.REJECTED, t.outbox.c.finished_at >= time.time() - DAY
    )
    with engine.connect() as c:
        return c.scalar(query) or 0


def _where(engine: Engine) -> str:
    url = engine.url
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return f"PostgreSQL database {url.database} at {url.host or 'the local socket'}"
