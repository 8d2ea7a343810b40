"""The tables. Times are Unix seconds; JSON columns hold what the API shows as objects."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 1

metadata = MetaData()

meta = Table(
    "meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False)
)

groups = Table(
    "groups",
    metadata,
    Column("id", Text, primary_key=True),
    Column("folder", Text, nullable=False, unique=True),
    Column("session_id", Text, nullable=False, default=""),
    Column("generation", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
)

messages = Table(
    "messages",
    metadata,
    # Acceptance order over all groups; SQLite's rowid, PostgreSQL's identity.
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("group_id", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("external_id", Text),
    Column("sender", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("wakes", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("turn_id", Text),
    Column("metadata", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("group_id", "channel", "external_id"),
    Index("messages_by_group", "group_id", "state", "seq"),
    Index("messages_by_turn", "turn_id"),
    sqlite_autoincrement=True,
)

turns = Table(
    "turns",
    metadata,
    Column("id", Text, primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("generation", Integer, nullable=False, default=0),
    Column("text", Text, nullable=False, default=""),
    Column("error", JSON),
    Column("usage", JSON),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float),
    Index("turns_by_group", "group_id", "state"),
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("group_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("turn_id", Text),
    Column("message_ids", JSON, nullable=False),
    Column("data", JSON, nullable=False),
    Index("events_by_group", "group_id", "id"),
)

# The ledger: one row for each call to a model, with its usage as it was reported. Its groups may
# be gone: what was spent stays spent.
calls = Table(
    "calls",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("day", Integer, nullable=False),  # days since 1970-01-01, UTC
    Column("group_id", Text, nullable=False),
    Column("key_name", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("input_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("cache_write_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("price", JSON(none_as_null=True)),  # dollars for a million, as they were at the time
    Column("cost_nano", BigInteger),  # nanodollars
    Column("first_byte_ms", Float),
    Column("total_ms", Float, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("fallback", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Index("calls_by_time", "at"),
    Index("calls_by_group", "group_id", "at"),
    Index("calls_by_key", "key_name", "at"),
    sqlite_autoincrement=True,
)

# Attempts that brought no answer, also those of calls that were answered by another provider.
failures = Table(
    "failures",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("group_id", Text, nullable=False),
    Column("key_name", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("type", Text, nullable=False),
    Index("failures_by_time", "at"),
    sqlite_autoincrement=True,
)
