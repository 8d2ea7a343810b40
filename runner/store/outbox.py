"""What a turn has to tell its chat: functions of an open connection.

A row is written in the transaction that makes it true: the answer or the failure with the turn's
end, a message in mid-turn with the effect of the tool that sent it. So nothing is told that did not
happen, and nothing that happened is left untold. ``deliveries`` has what is done with the rows.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, func, insert, select

from runner.errors import ConflictError
from runner.model import Delivery, DeliveryKind, Event, Message, Turn, TurnState
from runner.store import fence, groups
from runner.store import schema as t
from runner.store.rows import message_of
from runner.store.silence import TASK_CHANNEL, is_silent

WEBHOOK = "webhook"
"""The channel whose targets are URLs."""


def say(
    c: Connection,
    turn: Turn,
    kind: DeliveryKind,
    event: str,
    data: Mapping[str, Any],
    webhook: str,
    *,
    group: str = "",
) -> Delivery | None:
    """Write what a chat is to be told in the middle of a turn, before all that is said later.

    ``event`` and ``data`` are what the event log says of it; writing that event is the caller's,
    in the same transaction. ``None``: there is nowhere to send it, so the event is all there is.

    Args:
        webhook: where the group's answers go when no message of it has said.
        group: another group than the turn's that is told.

    Raises:
        ConflictError: ``turn_ended``: the turn does not run any more, or in a later attempt.
    """
    groups.lock(c, turn.group)
    _need_running(c, turn)
    data = {"turn_id": turn.id, **data}
    if group in ("", turn.group):
        return _deliver(c, turn, kind, event, data, _messages(c, turn.id), turn.group, webhook)
    return _deliver(c, turn, kind, event, data, (), group, webhook)


def conclude(c: Connection, ended: Turn, log: Event, webhook: str) -> Delivery | None:
    """Tell the chat how a turn ended; ``log`` is the event that says so.

    To be called by the transaction that ends the turn, as the last that is said of it. ``None``
    also where a scheduled task has nothing to tell.
    """
    failed = ended.state is TurnState.FAILED
    kind = DeliveryKind.FAILURE if failed else DeliveryKind.ANSWER
    messages = _messages(c, ended.id)
    if is_silent(ended, messages):
        return None
    return _deliver(c, ended, kind, log.kind, log.data, messages, ended.group, webhook)


def _messages(c: Connection, turn_id: str) -> Sequence[Message]:
    taken = select(t.messages).where(t.messages.c.turn_id == turn_id).order_by(t.messages.c.seq)
    return [message_of(r) for r in c.execute(taken).mappings()]


def _need_running(c: Connection, turn: Turn) -> None:
    if not fence.holds(c, turn):
        raise ConflictError(
            f"the turn {turn.id} has ended, or another attempt at it runs", code="turn_ended"
        )


def _deliver(
    c: Connection,
    turn: Turn,
    kind: DeliveryKind,
    event: str,
    data: Mapping[str, Any],
    messages: Sequence[Message],
    group: str,
    webhook: str,
) -> Delivery | None:
    target = _target(c, group, messages, webhook)
    if not target:
        return None
    id_, now = f"dlv_{secrets.token_hex(12)}", time.time()
    delivery = Delivery(
        id=id_,
        group=group,
        turn_id=turn.id,
        ordinal=_next_ordinal(c, turn.id),
        kind=kind,
        body=_body(event, group, data, id_, messages),
        channel=WEBHOOK,
        target=target,
        next_at=now,
        created_at=now,
        since=now,
    )
    done = c.execute(
        insert(t.outbox).values(
            id=delivery.id,
            group_id=delivery.group,
            turn_id=delivery.turn_id,
            ordinal=delivery.ordinal,
            kind=delivery.kind,
            body=delivery.body,
            channel=delivery.channel,
            target=delivery.target,
            state=delivery.state,
            attempts=delivery.attempts,
            next_at=delivery.next_at,
            created_at=delivery.created_at,
            since=delivery.since,
        )
    )
    key = done.inserted_primary_key
    return replace(delivery, seq=int(key[0]) if key else 0)


def _target(c: Connection, group_id: str, messages: Sequence[Message], webhook: str) -> str:
    """The newest wish of the turn's own messages, else of the group's, else the configured one."""
    if own := next((m.reply_url for m in reversed(messages) if m.reply_url), ""):
        return own
    group = groups.find(c, group_id)
    return (group.reply_url if group is not None else "") or webhook


def _next_ordinal(c: Connection, turn_id: str) -> int:
    last = c.scalar(select(func.max(t.outbox.c.ordinal)).where(t.outbox.c.turn_id == turn_id))
    return 0 if last is None else int(last) + 1


def _body(
    event: str,
    group: str,
    data: Mapping[str, Any],
    delivery_id: str,
    messages: Sequence[Message],
) -> dict[str, Any]:
    """What is sent: the event, and what the receiver needs to put it where it belongs.

    ``metadata`` is that of the message which the answer goes to: the newest that named a place for
    it, else the newest.
    """
    asked = next((m for m in reversed(messages) if m.reply_url), messages[-1] if messages else None)
    body: dict[str, Any] = {
        "event": event,
        "delivery_id": delivery_id,
        "group": group,
        **data,
        "message_ids": [m.id for m in messages],
        # What names a scheduled run is of the scheduler's own, and means nothing to a chat.
        "external_ids": [None if m.channel == TASK_CHANNEL else m.external_id for m in messages],
    }
    if asked is not None and asked.metadata:
        body["metadata"] = asked.metadata
    return body
