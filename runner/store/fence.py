"""The fence of turns: who may still write for one."""

from __future__ import annotations

from sqlalchemy import Connection, select

from runner.model import Turn, TurnState
from runner.store import schema as t


def holds(c: Connection, turn: Turn) -> bool:
    """The turn runs, and this is its newest attempt."""
    query = select(t.turns.c.id).where(
        t.turns.c.id == turn.id,
        t.turns.c.state == TurnState.RUNNING,
        t.turns.c.attempt == turn.attempt,
    )
    return c.scalar(query) is not None
