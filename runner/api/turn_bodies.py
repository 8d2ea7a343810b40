"""What the calls about turns answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from runner.host.progress import usage_json
from runner.model import Turn


class TurnOut(BaseModel):
    """A turn. ``error`` says why it failed; times are Unix seconds."""

    turn_id: str
    state: str = Field(examples=["running", "done", "failed", "cancelled"])
    attempt: int
    text: str
    error: dict[str, Any] | None
    usage: dict[str, int | None] | None
    started_at: float
    finished_at: float | None
    held_since: float | None = Field(description="When it began to wait for a model or a login.")

    @classmethod
    def of(cls, turn: Turn) -> TurnOut:
        return cls(
            turn_id=turn.id,
            state=str(turn.state),
            attempt=turn.attempt,
            text=turn.text,
            error=turn.error,
            usage=usage_json(turn.usage),
            started_at=turn.started_at,
            finished_at=turn.finished_at,
            held_since=turn.held_since,
        )


class TurnList(BaseModel):
    turns: list[TurnOut]


class RetriedOut(BaseModel):
    """Messages that wait again, and the failed turns that they were of."""

    turn_ids: list[str]
    message_ids: list[str]


class SteeredOut(BaseModel):
    """``steered``: the message joined the turn ``turn_id``. Else that turn ended just then, and the
    next one has the message."""

    message_id: str
    turn_id: str
    steered: bool
