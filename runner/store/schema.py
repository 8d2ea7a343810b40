"""The tables, as the newest step of :mod:`runner.store.migrations` leaves them.

Times are Unix seconds; JSON columns hold what the API shows as objects.
"""

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
    false,
    text,
)

from runner.store.texts import FreeText

metadata = MetaData()

meta = Table(
    "meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False)
)

# A group's row is also the lock under which its queue is changed.
groups = Table(
    "groups",
    metadata,
    Column("id", Text, primary_key=True),
    Column("folder", Text, nullable=False, unique=True),
    Column("session_id", Text, nullable=False, default=""),
    Column("generation", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    Column("owner", Text, nullable=False, default="", server_default=""),
    Column("model", Text, nullable=False, default="", server_default=""),
    Column("reply_url", Text, nullable=False, default="", server_default=""),
    Column("registered", Boolean, nullable=False, default=False, server_default=false()),
    Index("groups_by_owner", "owner"),
)

# Conversations of a group beside its own: those of its tasks.
sessions = Table(
    "sessions",
    metadata,
    Column("group_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("session_id", Text, nullable=False),
)

# Hosts on this store. What a host owns is free for others when its ``expires_at`` has passed.
hosts = Table(
    "hosts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("slot", Integer, nullable=False, unique=True),  # 0 to 15: the low bits of its event ids
    Column("expires_at", Float, nullable=False),
    Column("started_at", Float, nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("group_id", Text, primary_key=True),
    Column("member_id", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("updated_at", Float, nullable=False),
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
    Column("sender", FreeText, nullable=False),
    Column("text", FreeText, nullable=False),
    Column("wakes", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("turn_id", Text),
    Column("metadata", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("sender_id", Text, nullable=False, default="", server_default=""),
    Column("role", Text, nullable=False, default="member", server_default="member"),
    Column("session", Text, nullable=False, default="", server_default=""),
    Column("steered", Boolean, nullable=False, default=False, server_default=false()),
    Column("reply_url", Text, nullable=False, default="", server_default=""),
    Column("attachments", JSON, nullable=False, default=list, server_default="[]"),
    UniqueConstraint("group_id", "channel", "external_id"),
    Index("messages_by_group", "group_id", "state", "seq"),
    Index("messages_by_turn", "turn_id"),
    sqlite_autoincrement=True,
)

OPEN = text("state IN ('queued', 'claimed')")
"""Of messages: without an end yet. As text, for only so SQLite knows that the index has them."""

# What is still to be answered, however much was.
Index(
    "messages_open",
    messages.c.group_id,
    messages.c.created_at,
    sqlite_where=OPEN,
    postgresql_where=OPEN,
)

turns = Table(
    "turns",
    metadata,
    Column("id", Text, primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("generation", Integer, nullable=False, default=0),
    Column("text", FreeText, nullable=False, default=""),
    Column("error", JSON),
    Column("usage", JSON),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("kind", Text, nullable=False, default="chat", server_default="chat"),
    Column("session", Text, nullable=False, default="", server_default=""),
    Column("excused", Integer, nullable=False, default=0, server_default="0"),
    Column("held_since", Float),
    Index("turns_by_group", "group_id", "state"),
    Index("turns_by_end", "finished_at"),
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

# What chats are to be told, in the order in which it was said.
outbox = Table(
    "outbox",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("group_id", Text, nullable=False),
    Column("turn_id", Text, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", JSON, nullable=False),
    Column("channel", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_at", Float, nullable=False),
    Column("error", FreeText, nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("since", Float, nullable=False),
    Column("finished_at", Float),
    UniqueConstraint("turn_id", "ordinal"),
    Index("outbox_by_state", "state", "next_at"),
    Index("outbox_by_group", "group_id", "seq"),
    sqlite_autoincrement=True,
)
# What is still to be sent, however much was: each group's next one is found at once.
Index(
    "outbox_open",
    outbox.c.group_id,
    outbox.c.seq,
    sqlite_where=outbox.c.finished_at.is_(None),
    postgresql_where=outbox.c.finished_at.is_(None),
)

# What host tools did in a turn, so that a call which is made again has its effect once.
tool_calls = Table(
    "tool_calls",
    metadata,
    Column("turn_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("result", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("prompt", FreeText, nullable=False),
    Column("kind", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("next_at", Float),
    Column("state", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("missed", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("last_at", Float),
    Column("last_message_id", Text, nullable=False, default=""),
    Column("runs", Integer, nullable=False, default=0),
    Column("reply_url", Text, nullable=False, default="", server_default=""),
    Index("tasks_by_time", "state", "next_at"),
    Index("tasks_by_group", "group_id"),
)

# Files that agents sent; the bytes are in ``data/files``.
files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("turn_id", Text, nullable=False),
    Column("name", FreeText, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("files_by_group", "group_id", "created_at"),
)

OF_A_GROUP = (sessions, members, messages, turns, events, outbox, tool_calls, tasks, files)
"""Tables whose rows go with their group. What was spent stays spent."""

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
