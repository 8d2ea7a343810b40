"""PostgreSQL: how it is reached, and what its errors mean for people.

Errors are told apart by SQLSTATE; only where a connection was refused, which has none, by words.
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DataError, DBAPIError, ProgrammingError

from runner.errors import ConfigError, NanokimiError, PermanentError, TemporaryError

CONNECT_WAIT = 10
"""Seconds for one try to connect."""

LOCK_WAIT = 10.0
"""Seconds that a statement waits for a row which another host has locked."""

IDLE_WAIT = 5.0
"""Seconds that a transaction may do nothing. A host that stopped in the middle of one holds rows
for which the others' writers wait, their leases with them."""

# Of every new connection, unless the URL says otherwise. TCP finds a dead peer in half a minute.
_CONNECTION = {
    "connect_timeout": CONNECT_WAIT,
    "application_name": "nanokimi",
    "client_encoding": "utf8",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
}
_SETTINGS = (
    f"SET lock_timeout = {int(LOCK_WAIT * 1000)}",
    f"SET idle_in_transaction_session_timeout = {int(IDLE_WAIT * 1000)}",
    # A server that acknowledges before it has written would let us promise what it may forget.
    (
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    ),
)

_FULL = frozenset({"53100"})  # disk_full
_LOCKED = frozenset({"55P03", "40P01", "40001"})  # lock_not_available, deadlock, serialization
_READ_ONLY = frozenset({"25006"})  # read_only_sql_transaction: a standby, or set so
_TOO_MANY = frozenset({"53300"})  # too_many_connections
_LOGIN = frozenset({"28000", "28P01"})  # invalid_authorization_specification, invalid_password
_NO_DATABASE = frozenset({"3D000"})  # invalid_catalog_name
_FORBIDDEN = frozenset({"42501"})  # insufficient_privilege
_DAMAGED = frozenset({"XX001", "XX002"})  # data_corrupted, index_corrupted
_AGAIN = frozenset({"40P01", "40001"})


def open_postgres(url: URL, connections: int) -> Engine:
    """The engine of a server. Nothing is sent before the first transaction.

    Raises:
        ConfigError: the driver is not installed.
    """
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={k: v for k, v in _CONNECTION.items() if k not in url.query},
            isolation_level="READ COMMITTED",
            pool_size=connections,
            max_overflow=0,
            pool_pre_ping=True,
        )
    except ImportError:
        raise ConfigError(
            "[store] url names PostgreSQL, but its driver is not installed",
            hint="pip install 'nanokimi[postgres]'",
            code="postgres_driver_missing",
        ) from None

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            for setting in _SETTINGS:
                cursor.execute(setting)
        connection.commit()

    return engine


def check_postgres(c: Connection) -> None:
    """Refuse a database that cannot hold what people write. Raises: PermanentError."""
    encoding = c.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise PermanentError(
            f"the PostgreSQL database is encoded in {encoding}, which cannot hold every text",
            hint="make it with: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
            code="store_wrong_encoding",
        )


def lost_a_race(e: DBAPIError) -> bool:
    """It lost against another transaction: alone it may go through."""
    return getattr(e.orig, "sqlstate", None) in _AGAIN


def transaction_of(c: Connection) -> str | None:
    """What the server calls the running transaction; ``None`` when it has changed nothing."""
    found: str | None = c.scalar(text("SELECT CAST(pg_current_xact_id_if_assigned() AS text)"))
    return found


def has_committed(c: Connection, transaction: str) -> bool | None:
    """Did it? ``None``: it is not over yet."""
    query = text("SELECT pg_xact_status(CAST(:id AS xid8))")
    status = c.scalar(query, {"id": transaction})
    return None if status == "in progress" else status == "committed"


def explain_postgres(e: DBAPIError, url: URL) -> NanokimiError:
    """What an operator can do about it; the password is in none of it."""
    state = getattr(e.orig, "sqlstate", None) or ""
    where = place_of(url)
    said = _first_line(e, url)
    if state in _FULL:
        return TemporaryError(
            "the disk of the PostgreSQL server is full", hint="free some space", code="disk_full"
        )
    if state in _LOCKED:
        return TemporaryError(
            f"the database at {where} is locked by another program",
            hint="look for long transactions in pg_stat_activity",
            code="store_locked",
        )
    if state in _READ_ONLY:
        return TemporaryError(
            f"the database at {where} is read-only",
            hint="let [store] url name the primary server, or end its read-only mode",
            code="store_read_only",
        )
    if state in _TOO_MANY:
        return TemporaryError(
            f"the PostgreSQL server at {where} has no connection free",
            hint="raise its max_connections, or end other programs that use it",
            code="store_unavailable",
        )
    if state in _LOGIN or "password" in said:
        return PermanentError(
            f"the PostgreSQL server at {where} refused user {url.username or '(none)'}: {said}",
            hint="check user and password in [store] url, and the server's pg_hba.conf",
            code="store_login_refused",
        )
    if state in _NO_DATABASE or f'database "{url.database}" does not exist' in said:
        return PermanentError(
            f"the PostgreSQL server has no database {url.database!r}",
            hint=f"make it: createdb --encoding UTF8 --template template0 {url.database}",
            code="store_missing",
        )
    if state in _FORBIDDEN:
        return PermanentError(
            f"user {url.username} may not use the database at {where}: {said}",
            hint=f"make it the owner: ALTER DATABASE {url.database} OWNER TO {url.username}",
            code="store_forbidden",
        )
    if state in _DAMAGED:
        return PermanentError(
            f"the database at {where} is damaged: {said}",
            hint="restore it from a backup",
            code="store_damaged",
        )
    if isinstance(e, ProgrammingError) and not state and "connection option" in said:
        return ConfigError(
            f"[store] url cannot be used: {said}",
            hint="correct what stands after the ? of the URL: options are those of libpq, "
            "like sslmode=require",
        )
    if isinstance(e, ProgrammingError | DataError):
        return PermanentError(
            f"the database at {where} refused a statement: {said}",
            hint="nobody but nanokimi may change its tables; if nobody did, report this",
            code="store_damaged",
        )
    return TemporaryError(
        f"the database at {where} cannot be used: {said}",
        hint="check that the PostgreSQL server runs and that [store] url names it",
        code="store_unavailable",
    )


def place_of(url: URL) -> str:
    """Host, port and database of a URL, safe to print."""
    query_host = url.query.get("host", "")
    host = url.host or (query_host if isinstance(query_host, str) else ",".join(query_host))
    port = f":{url.port}" if url.port else ""
    return f"{host or 'the local socket'}{port}/{url.database or ''}"


def _first_line(e: DBAPIError, url: URL) -> str:
    said = str(e.orig).strip()
    line = said.splitlines()[0] if said else type(e.orig).__name__
    password = url.password
    return line.replace(str(password), "***") if password else line
