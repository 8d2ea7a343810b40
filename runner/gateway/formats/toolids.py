"""Ids of tool calls, in an alphabet that both sides take, and back. Pure.

Kimi's look like ``bash:0`` or ``functions.bash:0``; Anthropic clients want
``[a-zA-Z0-9_-]{1,64}``. An id that already fits goes as it is. Any other one is escaped behind a
prefix: ``bash:0`` is ``nk-bash-c0``. No such map can keep every 64-character id within 64
characters: the few that grow too long become a digest, which names the call just as well in the
client's requests but cannot be turned back.
"""

from __future__ import annotations

import hashlib
import re

MAX_ID = 64
_PREFIX = "nk-"
_FITS = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SPECIAL = re.compile(r"[^a-zA-Z0-9_]")
_ESCAPE = re.compile(r"-(?:(-)|(c)|(d)|((?:x[0-9a-f]{2})+))")
_SHORT = {"-": "--", ":": "-c", ".": "-d"}


def to_anthropic(id_: str) -> str:
    """A chat call's id as an Anthropic client takes it."""
    if _FITS.fullmatch(id_) and not id_.startswith(_PREFIX):
        return id_
    escaped = _PREFIX + _SPECIAL.sub(_escape, id_)
    if len(escaped) <= MAX_ID:
        return escaped
    return "nk_" + hashlib.sha256(id_.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def to_chat(id_: str) -> str:
    """The id that :func:`to_anthropic` was given; any other id as it is."""
    if not id_.startswith(_PREFIX):
        return id_
    try:
        plain = _ESCAPE.sub(_unescape, id_.removeprefix(_PREFIX))
    except UnicodeDecodeError:
        return id_
    # A foreign id may only look like ours; what does not come back unchanged is not.
    return plain if to_anthropic(plain) == id_ else id_


def made_up(answer_id: str, index: int) -> str:
    """An id for a call that came without one: the same each time, and no other answer's."""
    digest = hashlib.sha256(f"{answer_id} {index}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"call_{digest[:24]}"


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    short = _SHORT.get(char)
    if short is not None:
        return short
    return "-" + "".join(f"x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))


def _unescape(match: re.Match[str]) -> str:
    if match[4] is None:
        return "-" if match[1] else ":" if match[2] else "."
    return bytes.fromhex(match[4].replace("x", "")).decode("utf-8", "surrogatepass")
