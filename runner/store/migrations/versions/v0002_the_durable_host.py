"""Hosts with leases, people, deliveries, host tools, tasks, files, and conversations of a group."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _words(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


def upgrade() -> None:
    _groups()
    _queue()
    _outbox()
    _tools()
    # A version from before alembic reads this, and refuses to touch the tables.
    op.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")


def _groups() -> None:
    op.add_column("groups", _words("owner"))
    op.add_column("groups", _words("model"))
    op.add_column("groups", _words("reply_url"))
    op.add_column("groups", _flag("registered"))
    op.create_index("groups_by_owner", "groups", ["owner"])
    op.create_table(
        "sessions",
        sa.Column("group_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False),
    )
    op.create_table(
        "hosts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("slot", sa.Integer, nullable=False, unique=True),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
    )
    op.create_table(
        "members",
        sa.Column("group_id", sa.Text, primary_key=True),
        sa.Column("member_id", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    )


def _queue() -> None:
    op.add_column("messages", _words("sender_id"))
    op.add_column("messages", sa.Column("role", sa.Text, nullable=False, server_default="member"))
    op.add_column("messages", _words("session"))
    op.add_column("messages", _flag("steered"))
    op.add_column("messages", _words("reply_url"))
    op.add_column(
        "messages", sa.Column("attachments", sa.JSON, nullable=False, server_default="[]")
    )
    op.add_column("turns", sa.Column("kind", sa.Text, nullable=False, server_default="chat"))
    op.add_column("turns", _words("session"))
    op.add_column("turns", sa.Column("excused", sa.Integer, nullable=False, server_default="0"))
    op.add_column("turns", sa.Column("held_since", sa.Float))
    op.create_index("turns_by_end", "turns", ["finished_at"])
    still_open = sa.text("state IN ('queued', 'claimed')")
    op.create_index(
        "messages_open",
        "messages",
        ["group_id", "created_at"],
        sqlite_where=still_open,
        postgresql_where=still_open,
    )


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("group_id", sa.Text, nullable=False),
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Float, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float),
        sa.UniqueConstraint("turn_id", "ordinal"),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_by_state", "outbox", ["state", "next_at"])
    op.create_index("outbox_by_group", "outbox", ["group_id", "seq"])
    still_open = sa.text("finished_at IS NULL")
    op.create_index(
        "outbox_open",
        "outbox",
        ["group_id", "seq"],
        sqlite_where=still_open,
        postgresql_where=still_open,
    )


def _tools() -> None:
    op.create_table(
        "tool_calls",
        sa.Column("turn_id", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("group_id", sa.Text, nullable=False),
        sa.Column("tool", sa.Text, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("group_id", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("timezone", sa.Text, nullable=False),
        sa.Column("next_at", sa.Float),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("missed", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("last_at", sa.Float),
        sa.Column("last_message_id", sa.Text, nullable=False),
        sa.Column("runs", sa.Integer, nullable=False),
        _words("reply_url"),
    )
    op.create_index("tasks_by_time", "tasks", ["state", "next_at"])
    op.create_index("tasks_by_group", "tasks", ["group_id"])
    op.create_table(
        "files",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("group_id", sa.Text, nullable=False),
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_index("files_by_group", "files", ["group_id", "created_at"])
