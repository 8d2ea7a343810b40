"""Which database: one engine for a file or a URL, and its errors in people's words."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from runner.errors import ConfigError, NanokimiError
from runner.settings.layout import Layout
from runner.settings.tables import Store as StoreSettings
from runner.store.postgres import explain_postgres, open_postgres
from runner.store.sqlite import explain_sqlite, open_sqlite

Place = Path | str
"""Where a database is: the file of SQLite, or a URL, which may hold a password."""


READERS = 3
"""Connections that look, beside the one that writes."""


def place_of(layout: Layout, store: StoreSettings) -> Place:
    """What ``[store] url`` says. Raises: ConfigError: the secret cannot be read."""
    return store.url.reveal() if store.url else layout.database


def open_engine(place: Place) -> Engine:
    """Raises: ConfigError, PermanentError."""
    if isinstance(place, Path):
        return open_sqlite(place, 1 + READERS)
    try:
        url = make_url(place)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "[store] url is not a database URL",
            hint="write it like postgresql://user:password@host/database",
        ) from None
    kind = url.get_backend_name()
    if kind == "postgresql":
        if "@" in (url.host or ""):  # the rest of a password, and the host is shown in errors
            raise ConfigError(
                "[store] url holds an @ too many", hint="write one in a password as %40"
            )
        return open_postgres(url, 1 + READERS)
    raise ConfigError(
        f"[store] url names {kind}, which cannot be used like this",
        hint='write postgresql://user:password@host/database, or "" for SQLite in the data '
        "directory",
    )


def explain(e: DBAPIError, url: URL) -> NanokimiError:
    """What an operator can do about it."""
    if url.get_backend_name() == "postgresql":
        return explain_postgres(e, url)
    return explain_sqlite(e)
