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
    """``queued → claimed → answered | dropped | failed``; a failed attempt goes back to queued."""

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
    MessageState.FAILED: frozenset(),
}
TURN_MOVES: dict[TurnState, frozenset[TurnState]] = {
    TurnState.RUNNING: frozenset({TurnState.DONE, TurnState.FAILED, TurnState.CANCELLED}),
    TurnState.DONE: frozenset(),
    TurnState.FAILED: frozenset(),
    TurnState.CANCELLED: frozenset(),
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

_S = TypeVar("_S", MessageState, TurnState, SandboxState)


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
    """

    id: str
    folder: str
    session_id: str = ""
    generation: int = 0
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message as it was accepted. Times are Unix seconds."""

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


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider reported them; ``None`` where it said nothing."""

    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of the agent over one or more messages of a group."""

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
