"""Reasoning that went by, remembered for clients that do not send it back.

Kimi refuses a tool call that comes back without the reasoning behind it, and many clients drop
that. So each answer's reasoning is kept under its tool calls and put back byte for byte. It is a
cache: whatever is lost from it is replaced by a placeholder, and nothing breaks.

Ids alone do not tell calls apart, since Kimi counts them (``bash:0``) in each conversation anew. A
call is known by id, name and arguments, and of several that agree in these, the one that answered
the same message is taken, else the newest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from runner.gateway.formats import Json
from runner.gateway.tool_ids import short_id

_EXACT = 2**53  # beyond this, integers and floats no longer agree
_ODD = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class CallKey:
    """A tool call (``call``) in answer to a message (``context``), both as digests."""

    call: str
    context: str


@dataclass(frozen=True, slots=True)
class Thought:
    """The reasoning behind one call."""

    key: CallKey
    text: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is remembered: entries, bytes of text, and seconds since the last use."""

    entries: int = 20_000
    bytes: int = 64 * 1024 * 1024
    age: float = 14 * 86_400.0


class ReasoningMemory(Protocol):
    """What was thought, by scope: the credential or group whose calls they are.

    Nobody gets another scope's reasoning. Neither method raises: what cannot be kept or found is
    not remembered.
    """

    async def remember(self, scope: str, thoughts: Sequence[Thought]) -> None: ...

    async def recall(self, scope: str, keys: Sequence[CallKey]) -> Mapping[CallKey, str]: ...


def key_of(call: Json, before: object) -> CallKey:
    """The key of a call in the chat format; ``before`` is the message that it answered."""
    function = call.get("function")
    if not isinstance(function, dict):
        function = {}
    parts = (_text(call.get("id")), _text(function.get("name")), _text(function.get("arguments")))
    # Some clients write the ids of calls anew: bash:0 comes back as bash_0.
    id_ = _ODD.sub("_", short_id(parts[0]))
    return CallKey(_digest((id_, parts[1], _canonical(parts[2]))), _digest(_words(before)))


def scoped(scope: str, call: str) -> str:
    """A call's name within its scope, which may be a credential and is never written down."""
    return _digest((scope, call))


def _canonical(arguments: str) -> str:
    """Arguments that read the same are the same: clients write their JSON anew."""
    try:
        return msgspec.json.encode(_decode(arguments), order="sorted").decode()
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return arguments


def _number(literal: str) -> float:
    number = float(literal)
    return int(number) if abs(number) < _EXACT and number.is_integer() else number


_decode = msgspec.json.Decoder(float_hook=_number).decode


def _words(message: object) -> Iterable[str]:
    """The text of a message, however it is divided into parts."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, list):
        return ()
    parts = (p.get("text") for p in content if isinstance(p, dict))
    return ("".join(p for p in parts if isinstance(p, str)),)


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
