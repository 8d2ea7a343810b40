"""The nouns of the house: plain frozen values that know nothing of Docker, HTTP or SQL.

States are enums with one transition table each; :func:`advance` applies it and refuses any other
move, so a bug shows where it happens and not three steps later.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

MAX_ID_CHARS = 256


class MessageState(StrEnum):
    """``queued → claimed → answered | dropped | failed``.

    A claimed message that its turn did not hear goes back to ``queued``, and a failed one when an
    operator has it tried again.
    """

    QUEUED = "queued"
    CLAIMED = "claimed"
    ANSWERED = "answered"
    DROPPED = "dropped"
    FAILED = "failed"


class TurnState(StrEnum):
    """``running → done | failed | cancelled``."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TurnKind(StrEnum):
    """``chat``: the agent's work. ``command``: a chat command, which the host answers itself."""

    CHAT = "chat"
    COMMAND = "command"


class Role(StrEnum):
    """What a person is in a group, from the most to the least."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    BLOCKED = "blocked"

    def covers(self, needed: Role) -> bool:
        """May this role do what ``needed`` may?"""
        order = list(Role)
        return order.index(self) <= order.index(needed)


class DeliveryKind(StrEnum):
    """What a delivery tells the chat. ``answer`` and ``failure`` end a turn; the rest come amid.

    A ``notice`` says that the turn has to wait.
    """

    ANSWER = "answer"
    FAILURE = "failure"
    MESSAGE = "message"
    FILE = "file"
    QUESTION = "question"
    NOTICE = "notice"


class DeliveryState(StrEnum):
    """``pending → sending → delivered | rejected``; a try that may be repeated is pending again.

    A rejected one goes back to ``pending`` when an operator has it tried again.
    """

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    REJECTED = "rejected"


class TaskState(StrEnum):
    """``active ⇄ paused``, ``active → done`` when no further run is due."""

    ACTIVE = "active"
    PAUSED = "paused"
    DONE = "done"


class SandboxState(StrEnum):
    """``creating → ready → busy ⇄ idle → stopping → gone``."""

    CREATING = "creating"
    READY = "ready"
    BUSY = "busy"
    IDLE = "idle"
    STOPPING = "stopping"
    GONE = "gone"


MESSAGE_MOVES: dict[MessageState, frozenset[MessageState]] = {
    MessageState.QUEUED: frozenset({MessageState.CLAIMED, MessageState.DROPPED}),
    MessageState.CLAIMED: frozenset(
        {MessageState.QUEUED, MessageState.ANSWERED, MessageState.DROPPED, MessageState.FAILED}
    ),
    MessageState.ANSWERED: frozenset(),
    MessageState.DROPPED: frozenset(),
    MessageState.FAILED: frozenset({MessageState.QUEUED}),
}
TURN_MOVES: dict[TurnState, frozenset[TurnState]] = {
    TurnState.RUNNING: frozenset({TurnState.DONE, TurnState.FAILED, TurnState.CANCELLED}),
    TurnState.DONE: frozenset(),
    TurnState.FAILED: frozenset(),
    TurnState.CANCELLED: frozenset(),
}
DELIVERY_MOVES: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset({DeliveryState.SENDING, DeliveryState.REJECTED}),
    DeliveryState.SENDING: frozenset(
        {DeliveryState.PENDING, DeliveryState.DELIVERED, DeliveryState.REJECTED}
    ),
    DeliveryState.DELIVERED: frozenset(),
    DeliveryState.REJECTED: frozenset({DeliveryState.PENDING}),
}
TASK_MOVES: dict[TaskState, frozenset[TaskState]] = {
    TaskState.ACTIVE: frozenset({TaskState.PAUSED, TaskState.DONE}),
    TaskState.PAUSED: frozenset({TaskState.ACTIVE, TaskState.DONE}),
    TaskState.DONE: frozenset({TaskState.ACTIVE}),
}
SANDBOX_MOVES: dict[SandboxState, frozenset[SandboxState]] = {
    SandboxState.CREATING: frozenset(
        {SandboxState.READY, SandboxState.STOPPING, SandboxState.GONE}
    ),
    SandboxState.READY: frozenset({SandboxState.BUSY, SandboxState.STOPPING, SandboxState.GONE}),
    SandboxState.BUSY: frozenset({SandboxState.IDLE, SandboxState.STOPPING, SandboxState.GONE}),
    SandboxState.IDLE: frozenset({SandboxState.BUSY, SandboxState.STOPPING, SandboxState.GONE}),
    SandboxState.STOPPING: frozenset({SandboxState.GONE}),
    SandboxState.GONE: frozenset(),
}

_S = TypeVar("_S", MessageState, TurnState, SandboxState, DeliveryState, TaskState)


def advance(table: dict[_S, frozenset[_S]], old: _S, new: _S) -> _S:
    """Return ``new`` if the table allows the move.

    Raises:
        ValueError: the move is not in the table (a bug, never user input).
    """
    if new not in table[old]:
        raise ValueError(f"illegal move {old} -> {new}")
    return new


@dataclass(frozen=True, slots=True)
class Group:
    """A chat group: the unit of isolation, memory and fairness.

    ``folder`` is derived from ``id`` by :func:`folder_of`; ``session_id`` is the agent's name for
    the group's conversation, empty before the first turn; ``generation`` counts its sandboxes.
    ``owner`` is the host that has its sandbox, empty when none has. ``model`` is the alias that
    the chat chose, empty for the configured one. ``reply_url`` is where its last message wanted
    answers sent. ``registered``: somebody who may do so has made it, not just a message.
    """

    id: str
    folder: str
    session_id: str = ""
    generation: int = 0
    created_at: float = 0.0
    owner: str = ""
    model: str = ""
    reply_url: str = ""
    registered: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that came with a message: ``path`` is where the agent finds it in its workspace.

    ``size`` in bytes; ``name`` is what the sender called it, made safe.
    """

    name: str
    media_type: str
    size: int
    path: str


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message as it was accepted. Times are Unix seconds.

    ``sender`` is a name for people and models, ``sender_id`` what the chat platform calls the
    person, ``role`` what that person was in the group when the message came. ``session`` names the
    conversation it belongs to, empty for the group's own. ``steered``: it joined a turn that was
    running already.
    """

    id: str
    group: str
    seq: int
    text: str
    sender: str = ""
    external_id: str | None = None
    state: MessageState = MessageState.QUEUED
    wakes: bool = True
    turn_id: str | None = None
    created_at: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)
    channel: str = ""
    sender_id: str = ""
    role: Role = Role.MEMBER
    session: str = ""
    steered: bool = False
    reply_url: str = ""
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider reported them; ``None`` where it said nothing."""

    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of the agent over one or more messages of a group.

    ``attempt`` counts from 1 and is the fence: only its newest may write. ``excused`` of them
    failed for a reason that passes by itself and do not count; ``held_since`` is when the first of
    a row of those did.
    """

    id: str
    group: str
    state: TurnState
    attempt: int
    generation: int = 0
    text: str = ""
    error: dict[str, Any] | None = None
    usage: Usage | None = None
    started_at: float = 0.0
    finished_at: float | None = None
    kind: TurnKind = TurnKind.CHAT
    session: str = ""
    excused: int = 0
    held_since: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a group's event log, as SSE shows it. ``id`` grows over the whole host."""

    id: int
    group: str
    kind: str
    data: dict[str, Any]
    turn_id: str | None = None
    message_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivery:
    """One thing to tell a chat, unique by ``turn_id`` and ``ordinal``; times are Unix seconds.

    ``body`` is what is sent; ``channel`` and ``target`` say how and where to. ``attempts`` counts
    tries, ``next_at`` is when the next one is due, ``error`` why the last one failed. ``since`` is
    when it began to be tried for as long as may be. While it is being sent, ``attempts`` is the
    fence of whoever sends it and ``next_at`` the end of that claim.
    """

    id: str
    group: str
    turn_id: str
    ordinal: int
    kind: DeliveryKind
    body: dict[str, Any]
    channel: str
    target: str
    seq: int = 0
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    next_at: float = 0.0
    error: str = ""
    created_at: float = 0.0
    since: float = 0.0
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """Work that a group's agent does at set times; times are Unix seconds.

    ``kind`` and ``spec`` say when: ``cron`` with five fields, ``interval`` with seconds, ``once``
    with an ISO 8601 time. ``timezone`` is an IANA name. ``session`` is ``group`` to go on with the
    group's conversation, ``own`` for one of the task's. ``missed`` is what happens with runs that
    fell into a downtime: ``once`` makes one of them, ``skip`` none. ``next_at`` is when the next
    run is due; ``last_at`` is when the last one that was made was due, and ``last_message_id`` its
    message. ``created_by`` is the id of the person for whom it runs, empty for the operator's own.
    ``reply_url`` is where its answers are sent, empty for where the group's are.
    """

    id: str
    group: str
    prompt: str
    kind: str
    spec: str
    timezone: str
    next_at: float | None
    state: TaskState = TaskState.ACTIVE
    session: str = "own"
    missed: str = "once"
    created_by: str = ""
    created_at: float = 0.0
    last_at: float | None = None
    last_message_id: str = ""
    runs: int = 0
    reply_url: str = ""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that an agent sent: the host keeps its own copy. ``size`` in bytes."""

    id: str
    group: str
    turn_id: str
    name: str
    media_type: str
    size: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Limits:
    """``memory`` in bytes, ``cpus`` as a fraction of cores, ``pids`` at one time."""

    memory: int
    cpus: float
    pids: int


@dataclass(frozen=True, slots=True)
class ExtraMount:
    """An operator's mount: ``source`` is a real host path that the settings have allowed."""

    name: str
    source: str
    read_only: bool = True


def folder_of(group_id: str) -> str:
    """Folder name of a group: readable, safe on any file system, and unique to the id.

    ``../etc``, emoji, 256 characters and ids that differ only in case are all fine: the name is a
    short slug of ``[a-z0-9-]`` plus 16 hex digits of the id's SHA-256. At most 41 characters.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", group_id.lower())[:24].strip("-")
    digest = hashlib.sha256(group_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{slug}-{digest}" if slug else digest
