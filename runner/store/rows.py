"""Database rows as nouns."""

from __future__ import annotations

from typing import Any

from sqlalchemy import RowMapping

from runner.model import (
    Attachment,
    Delivery,
    DeliveryKind,
    DeliveryState,
    Event,
    Group,
    Message,
    MessageState,
    Role,
    Task,
    TaskState,
    Turn,
    TurnKind,
    TurnState,
    Usage,
)


def group_of(r: RowMapping) -> Group:
    return Group(
        r["id"],
        r["folder"],
        r["session_id"],
        r["generation"],
        r["created_at"],
        r["owner"],
        r["model"],
        r["reply_url"],
        r["registered"],
    )


def message_of(r: RowMapping) -> Message:
    return Message(
        id=r["id"],
        group=r["group_id"],
        seq=r["seq"],
        text=r["text"],
        sender=r["sender"],
        external_id=r["external_id"],
        state=MessageState(r["state"]),
        wakes=r["wakes"],
        turn_id=r["turn_id"],
        created_at=r["created_at"],
        metadata=r["metadata"],
        channel=r["channel"],
        sender_id=r["sender_id"],
        role=Role(r["role"]),
        session=r["session"],
        steered=r["steered"],
        reply_url=r["reply_url"],
        attachments=tuple(Attachment(**a) for a in r["attachments"]),
    )


def turn_of(r: RowMapping) -> Turn:
    usage: dict[str, Any] | None = r["usage"]
    return Turn(
        id=r["id"],
        group=r["group_id"],
        state=TurnState(r["state"]),
        attempt=r["attempt"],
        generation=r["generation"],
        text=r["text"],
        error=r["error"],
        usage=Usage(**usage) if usage else None,
        started_at=r["started_at"],
        finished_at=r["finished_at"],
        kind=TurnKind(r["kind"]),
        session=r["session"],
        excused=r["excused"],
        held_since=r["held_since"],
    )


def task_of(r: RowMapping) -> Task:
    return Task(
        id=r["id"],
        group=r["group_id"],
        prompt=r["prompt"],
        kind=r["kind"],
        spec=r["spec"],
        timezone=r["timezone"],
        next_at=r["next_at"],
        state=TaskState(r["state"]),
        session=r["session"],
        missed=r["missed"],
        created_by=r["created_by"],
        created_at=r["created_at"],
        last_at=r["last_at"],
        last_message_id=r["last_message_id"],
        runs=r["runs"],
        reply_url=r["reply_url"],
    )


def event_of(r: RowMapping) -> Event:
    return Event(
        r["id"], r["group_id"], r["kind"], r["data"], r["turn_id"], tuple(r["message_ids"])
    )


def delivery_of(r: RowMapping, body: dict[str, Any]) -> Delivery:
    return Delivery(
        id=r["id"],
        group=r["group_id"],
        turn_id=r["turn_id"],
        ordinal=r["ordinal"],
        kind=DeliveryKind(r["kind"]),
        body=body,
        channel=r["channel"],
        target=r["target"],
        seq=r["seq"],
        state=DeliveryState(r["state"]),
        attempts=r["attempts"],
        next_at=r["next_at"],
        error=r["error"],
        created_at=r["created_at"],
        since=r["since"],
        finished_at=r["finished_at"],
    )
