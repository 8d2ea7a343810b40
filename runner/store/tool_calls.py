"""What a transaction can do with the calls of host tools: functions of an open connection.

A call has a key of its own in its turn. Its effect and its result are written in one transaction,
so a call that is made again, by an agent that never heard the answer, has its effect once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Connection as Connection
from sqlalchemy import func, insert, select

from runner.errors import PermanentError
from runner.model import Event, Turn
from runner.store import fence, groups
from runner.store import schema as t


@dataclass(frozen=True, slots=True)
class Effect:
    """What a call did: ``text`` tells the model; ``event`` is one that it wrote, if any."""

    text: str
    event: Event | None = None


ANSWER = "ask_user:answer"
"""Rows of this tool are no calls: each names a message that answered a question."""

Work = Callable[[Connection, int], Effect]
"""What a tool does within its transaction; the number is for the id of its event."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: ``key`` names it within its turn, ``limit`` bounds the tool's calls in a turn."""

    turn: Turn
    key: str
    tool: str
    limit: int


@dataclass(frozen=True, slots=True)
class Done:
    """What the model is told, and the event that was written with it: none of a known call.

    ``text`` is ``None`` for a call that was only counted.
    """

    text: str | None
    event: Event | None = None


def once(c: Connection, call: Call, work: Work, event_id: int) -> Done:
    """Do ``work`` and remember its result, unless the call is known.

    Raises:
        PermanentError: as :func:`admit`; nothing is written. And what ``work`` raises.
    """
    if found := admit(c, call):
        return found
    effect = work(c, event_id)
    _remember(c, call, effect.text)
    return Done(effect.text, effect.event)


def count(c: Connection, call: Call) -> None:
    """Count a call that may be run again, as it changes nothing. Raises: as :func:`admit`."""
    if admit(c, call) is None:
        _remember(c, call, None)


def admit(c: Connection, call: Call) -> Done | None:
    """The result of a known call; ``None`` when this one may go on.

    Raises:
        PermanentError: ``turn_over``: the turn has ended, or a later attempt has taken over;
            ``tool_limit``: the tool was called too often; ``bad_call``: the key is another tool's.
    """
    turn = call.turn
    # The group's row is the lock: two calls with one key come here one after the other.
    groups.lock(c, turn.group)
    if not fence.holds(c, turn):
        raise PermanentError(
            "the turn has ended, so its tools do nothing any more", code="turn_over"
        )
    rows = t.tool_calls.c
    found = (
        c.execute(select(t.tool_calls).where(rows.turn_id == turn.id, rows.key == call.key))
        .mappings()
        .first()
    )
    if found is not None:
        if found["tool"] != call.tool:
            raise PermanentError(
                f"the key of this call was that of a call of {found['tool']}", code="bad_call"
            )
        return Done(found["result"]["text"])
    made = c.scalar(
        select(func.count())
        .select_from(t.tool_calls)
        .where(rows.turn_id == turn.id, rows.tool == call.tool)
    )
    if (made or 0) >= call.limit:
        raise PermanentError(
            f"{call.tool} was called {made} times in this turn, which is all it may",
            hint="finish without it",
            code="tool_limit",
        )
    return None


def note_answer(c: Connection, call: Call, message_id: str) -> None:
    """The message answered a question that this call has asked."""
    _remember(c, replace(call, key=f"answer:{call.key}", tool=ANSWER), message_id)


def answers(c: Connection, turn_id: str) -> frozenset[str]:
    """Messages that answered questions of a turn."""
    rows = t.tool_calls.c
    query = select(rows.result).where(rows.turn_id == turn_id, rows.tool == ANSWER)
    return frozenset(str(result["text"]) for result in c.scalars(query))


def _remember(c: Connection, call: Call, text: str | None) -> None:
    c.execute(
        insert(t.tool_calls).values(
            turn_id=call.turn.id,
            key=call.key,
            group_id=call.turn.group,
            tool=call.tool,
            result={"text": text},
            created_at=time.time(),
        )
    )
