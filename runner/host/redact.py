"""Takes secrets out of what an agent says, before anybody sees it. Pure.

The walls keep real tokens out of a sandbox; this is the net below them, for sandboxes with
``network = "open"`` that have to hold one. It finds a secret as it is, however the text is cut
into pieces, and not one that the agent has encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

MASK = "[redacted]"
SHORTEST = 8
DEEPEST = 32


class Redactor:
    """One stream of text. ``secrets`` is asked for at each piece: tokens rotate.

    The end of a piece that could be the beginning of a secret is held back until the next piece or
    :meth:`flush` decides.
    """

    def __init__(self, secrets: Callable[[], Collection[str]]) -> None:
        self._secrets = secrets
        self._held = ""

    def feed(self, piece: str) -> str:
        """The part of the stream that is safe to show now."""
        secrets = _usable(self._secrets())
        text = _mask(self._held + piece, secrets)
        keep = max((_overlap(text, secret) for secret in secrets), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back: nothing more comes."""
        held, self._held = self._held, ""
        return held


def redact(value: Any, secrets: Collection[str]) -> Any:
    """A whole text, or anything made of dicts, lists and texts, without the secrets.

    What is nested deeper than 32 levels is masked as a whole.
    """
    return _clean(value, _usable(secrets), DEEPEST)


def _clean(value: Any, secrets: list[str], levels: int) -> Any:
    match value:
        case str():
            return _mask(value, secrets)
        case dict() | list() if levels == 0:
            return MASK
        case dict():
            return {
                _mask(str(k), secrets): _clean(v, secrets, levels - 1) for k, v in value.items()
            }
        case list():
            return [_clean(v, secrets, levels - 1) for v in value]
        case _:
            return value


def _usable(secrets: Collection[str]) -> list[str]:
    """Longest first; what is too short would take out ordinary words."""
    return sorted((s for s in secrets if len(s) >= SHORTEST), key=len, reverse=True)


def _mask(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _overlap(text: str, secret: str) -> int:
    """Length of the longest end of ``text`` that begins ``secret``."""
    longest = min(len(text), len(secret) - 1)
    start = text.find(secret[0], len(text) - longest)
    while start >= 0:
        if secret.startswith(text[start:]):
            return len(text) - start
        start = text.find(secret[0], start + 1)
    return 0
