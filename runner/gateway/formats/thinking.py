"""Reasoning on its way through an Anthropic client: marked as ours, and known again. Pure.

A thinking block that we emit carries the signature ``nk1:`` and a digest of its text; a hidden one
(``redacted_thinking``) carries the text itself, packed, behind the same mark. So what a client
sends back needs no memory: a block whose mark fits is the model's reasoning byte for byte. The
digest has no key. It tells our blocks from other makers' and whole ones from altered ones; a
client that forges it only puts words into its own conversation, as it may with
``reasoning_content``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from runner.gateway.formats import Json

MARK = "nk1:"


def sign(text: str) -> str:
    """The signature of a thinking block of ours."""
    return MARK + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def shown(text: str) -> Json:
    return {"type": "thinking", "thinking": text, "signature": sign(text)}


def hidden(text: str) -> Json:
    """A block that a client keeps and returns but does not show."""
    packed = base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()
    return {"type": "redacted_thinking", "data": MARK + packed}


def ours(block: Json) -> str | None:
    """The reasoning in a thinking block of ours; ``None`` when it is foreign or was altered."""
    match block:
        case {"type": "thinking", "thinking": str() as text, "signature": str() as signature}:
            return text if signature == sign(text) else None
        case {"type": "redacted_thinking", "data": str() as data} if data.startswith(MARK):
            try:
                packed = base64.b64decode(data.removeprefix(MARK), validate=True)
                return packed.decode("utf-8", "surrogatepass")
            except (binascii.Error, ValueError):
                return None
    return None


def of_chat(message: Json) -> str:
    """The reasoning of a chat message or delta, whichever of its two names a provider uses."""
    for field in ("reasoning_content", "reasoning"):
        value = message.get(field)
        if isinstance(value, str) and value:
            return value
    return ""
