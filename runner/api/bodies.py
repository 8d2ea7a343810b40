"""What the API takes and gives, as pydantic models: they are its documentation too."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from runner.channels.webhook import MAX_URL, refusal
from runner.errors import NanokimiError
from runner.host.attachments import MAX_ATTACHMENTS
from runner.host.progress import usage_json
from runner.model import Group, Message, StoredFile, Turn

MAX_METADATA = 64 * 1024
MAX_DEPTH = 32


class AttachmentIn(BaseModel):
    """A file that comes with a message, inside its JSON. A form takes larger ones."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=256)
    media_type: str = Field("", max_length=100)
    data: str = Field(description="Its bytes as standard base64.")


class MessageIn(BaseModel):
    """A chat message for a group's agent."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(description="What was said.", examples=["@kimi what is in my workspace?"])
    sender: str = Field("", max_length=256, description="Who said it, as the agent shall see it.")
    sender_id: str = Field(
        "",
        max_length=256,
        description="The chat platform's id of the person, for roles; without it `sender` counts.",
    )
    operator: bool = Field(
        False, description="Said by whoever runs nanokimi: an owner's message, whatever roles say."
    )
    external_id: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="The chat platform's id of the message: the same id twice is one message.",
    )
    direct: bool = Field(False, description="A one-to-one chat: answered without the trigger word.")
    reply_to_agent: bool = Field(
        False, description="It answers something the agent said: no trigger word is needed."
    )
    reply_url: str = Field(
        "",
        max_length=MAX_URL,
        description="Where the answer is POSTed to, signed; see docs/webhooks.md.",
        examples=["https://bot.example.com/answers"],
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="Kept with the message and given back: at most 64 KiB, 32 levels deep.",
    )

    attachments: list[AttachmentIn] = Field(default_factory=list, max_length=MAX_ATTACHMENTS)

    @field_validator("text", "sender", "sender_id", "external_id")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        if value is not None and not _is_text(value):
            raise ValueError("holds a character that cannot be stored (a lone surrogate or NUL)")
        return value

    @field_validator("reply_url")
    @classmethod
    def _reachable(cls, value: str) -> str:
        if value and (why := refusal(value)):
            raise ValueError(why)
        return value

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        if _depth(value) > MAX_DEPTH:
            raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if len(text) > MAX_METADATA:
            raise ValueError(f"is longer than {MAX_METADATA} characters")
        if not _is_text(text):
            raise ValueError("holds a character that cannot be stored (a lone surrogate or NUL)")
        return value


class MessageAccepted(BaseModel):
    """The message is on disk."""

    message_id: str
    group: str
    duplicate: bool
    wakes: bool = Field(
        description="False: it has no trigger word, so it waits as context for a later message."
    )
    command: str = Field(
        "", description="The chat command that it is, like `stop`: the host itself answers it."
    )
    hint: str = ""


class TurnResult(BaseModel):
    """How the turn of a message ended."""

    message_id: str
    turn_id: str
    status: str = Field(examples=["done", "cancelled", "failed"])
    text: str
    usage: dict[str, int | None] | None = None
    error: dict[str, Any] | None = None
    command: str = Field("", description="The chat command that the message is.")

    @classmethod
    def of(cls, message_id: str, turn: Turn, command: str = "") -> TurnResult:
        return cls(
            command=command,
            message_id=message_id,
            turn_id=turn.id,
            status=str(turn.state),
            text=turn.text,
            usage=usage_json(turn.usage),
            error=turn.error,
        )


class AttachmentOut(BaseModel):
    """A file that came with a message; ``path`` is where the agent has it in its workspace."""

    name: str
    media_type: str
    size: int
    path: str


class MessageOut(BaseModel):
    """A message of the history; ``seq`` is the ``after`` of the next page."""

    message_id: str
    seq: int
    sender: str
    sender_id: str
    role: str = Field(description="What the sender was in the group when the message came.")
    text: str
    state: str
    turn_id: str | None
    external_id: str | None
    created_at: float
    metadata: dict[str, Any]
    attachments: list[AttachmentOut]

    @classmethod
    def of(cls, m: Message) -> MessageOut:
        return cls(
            message_id=m.id,
            seq=m.seq,
            sender=m.sender,
            sender_id=m.sender_id,
            role=str(m.role),
            text=m.text,
            state=str(m.state),
            turn_id=m.turn_id,
            external_id=m.external_id,
            created_at=m.created_at,
            metadata=m.metadata,
            attachments=[AttachmentOut(**asdict(a)) for a in m.attachments],
        )


class MessagePage(BaseModel):
    messages: list[MessageOut]


class GroupOut(BaseModel):
    """A group and what it is doing. ``sandbox``: ``none``, ``busy`` or ``idle`` …"""

    group: str
    folder: str
    session_id: str
    created_at: float
    sandbox: str
    running_turn: str | None
    held: bool = Field(description="Its messages wait for a login, the model, or a place to run.")
    held_for: str = Field("", description="The code of the failure that they are held for.")
    model: str = Field(description="The alias that the chat chose; empty for the configured one.")
    owner: str = Field("", description="The host that has its sandbox; empty for this, or none.")
    waiting: int
    failed: int = Field(0, description="Turns that failed, and whose messages may be retried.")
    rejected: int = Field(0, description="Deliveries that were given up, and may be retried.")

    @classmethod
    def of(
        cls,
        group: Group,
        sandbox: str,
        running: Turn | None,
        waiting: int,
        *,
        owner: str = "",
        held_for: str = "",
        failed: int = 0,
        rejected: int = 0,
    ) -> GroupOut:
        return cls(
            group=group.id,
            folder=group.folder,
            session_id=group.session_id,
            created_at=group.created_at,
            sandbox=sandbox,
            running_turn=running.id if running else None,
            model=group.model,
            owner=owner,
            held=bool(held_for),
            held_for=held_for,
            waiting=waiting,
            failed=failed,
            rejected=rejected,
        )


class GroupList(BaseModel):
    groups: list[GroupOut]


class Cancelled(BaseModel):
    turn_id: str
    cancelled: bool


class Stopped(BaseModel):
    stopped: bool = Field(description="False when the group had no sandbox.")


class FileOut(BaseModel):
    """A file that an agent sent; ``url`` is where it is downloaded, with the bearer token."""

    file_id: str
    turn_id: str
    name: str
    media_type: str
    size: int
    created_at: float
    url: str

    @classmethod
    def of(cls, file: StoredFile, url: str) -> FileOut:
        told = asdict(file)
        return cls(file_id=told.pop("id"), url=url, **{k: told[k] for k in told if k != "group"})


class FileList(BaseModel):
    files: list[FileOut]


class ErrorBody(BaseModel):
    code: str
    message: str
    hint: str


class ErrorOut(BaseModel):
    """Every error has this shape."""

    error: ErrorBody

    @classmethod
    def of(cls, e: NanokimiError) -> ErrorOut:
        return cls(error=ErrorBody(code=e.code, message=e.message, hint=e.hint))


class Readiness(BaseModel):
    """``checks``: what was looked at, each ``ok`` or a sentence that says what is wrong."""

    ready: bool
    checks: dict[str, str]


def _is_text(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _depth(value: Any) -> int:
    """Levels of nesting; counted without recursion, so that no input can exhaust the stack."""
    deepest, left = 0, [(value, 1)]
    while left:
        item, level = left.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, level)
            inner = item.values() if isinstance(item, dict) else item
            left.extend((i, level + 1) for i in inner)
    return deepest
