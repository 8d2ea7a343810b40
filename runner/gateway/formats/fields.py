"""Fields of JSON that anybody may have sent: the wanted type, or a refusal that names the field.

``None`` counts as absent everywhere, as both APIs have it. Paths are written as Anthropic does:
``messages.0.content.1.text``. A check names only its own field; the loops around it add where it
stood, so that a request without mistakes pays nothing for the names.
"""

from __future__ import annotations

from typing import Any

import msgspec

from runner.gateway.failure import GatewayFailure
from runner.gateway.formats import Json
from runner.gateway.formats.errors import INVALID, Untranslatable

_encode = msgspec.json.Encoder().encode
# Under this key stand arguments of a tool call that are no JSON object: both sides want one.
MALFORMED = "_malformed"


class BadField(Untranslatable):
    """The client's request is wrong in one field: 400."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(GatewayFailure(400, INVALID, f"{field}: {problem}"))
        self.field = field
        self.problem = problem

    def inside(self, *outer: str | int) -> BadField:
        """The same mistake, seen from further out."""
        return BadField(".".join([*map(str, outer), self.field]), self.problem)


def text(holder: Json, field: str) -> str:
    """A string that has to be there."""
    value = holder.get(field)
    if isinstance(value, str):
        return value
    raise BadField(field, "a string is required")


def maybe_text(holder: Json, field: str) -> str | None:
    value = holder.get(field)
    if value is None or isinstance(value, str):
        return value
    raise BadField(field, "must be a string")


def maybe_object(holder: Json, field: str) -> Json | None:
    value = holder.get(field)
    if value is None or isinstance(value, dict):
        return value
    raise BadField(field, "must be an object")


def maybe_list(holder: Json, field: str) -> list[Any]:
    """A list; an empty one when the field is absent."""
    value = holder.get(field)
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise BadField(field, "must be a list")


def an_object(value: object, field: str) -> Json:
    if isinstance(value, dict):
        return value
    raise BadField(field, "must be an object")


def arguments_text(value: Json) -> str:
    """A tool's input as the JSON text of a chat call: compact, keys in their order."""
    try:
        return _encode(value).decode()
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise BadField("input", "is not plain JSON") from None


def arguments_object(arguments: str) -> Json:
    """The input that a chat call's ``arguments`` spell; none at all is an empty object."""
    if not arguments.strip():
        return {}
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {MALFORMED: arguments}
    return value if isinstance(value, dict) else {MALFORMED: arguments}


def is_object_text(arguments: str) -> bool:
    """Whether ``arguments`` are one whole JSON object."""
    try:
        msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True
