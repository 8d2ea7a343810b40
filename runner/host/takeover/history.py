"""Conversations of the older agent as text that the new one can read. Pure.

kimi-cli keeps a session as ``context.jsonl``: a JSON object a line, with ``role`` and ``content``,
which is text or a list of parts. Roles that begin with ``_`` are its own marks. Nobody but kimi-cli
can go on with such a session; its words can be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

MAX_CHARS = 1_000_000
_SPEAKERS = {"user": "The chat", "assistant": "You"}


def readable(content: bytes, title: str) -> str:
    """The words of a conversation as Markdown, the newest million characters of them.

    Empty when it holds none.
    """
    said = [f"## {who}\n\n{text}\n" for who, text in _said(content)]
    if not said:
        return ""
    kept: list[str] = []
    room = MAX_CHARS
    for part in reversed(said):
        room -= len(part)
        if room < 0:
            kept.append("(what came before is left out)\n")
            break
        kept.append(part)
    return "\n".join([f"# {title}\n", *reversed(kept)])


def _said(content: bytes) -> Iterator[tuple[str, str]]:
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(entry, dict):
            continue
        speaker = _SPEAKERS.get(str(entry.get("role")))
        text = _text(entry.get("content")).strip()
        if speaker and text:
            yield speaker, text


def _text(content: Any) -> str:
    """Of several parts those of text; what the agent thought and its tools said is left out."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [p for p in content if isinstance(p, dict) and p.get("type") == "text"]
    return "\n".join(p["text"] for p in parts if isinstance(p.get("text"), str))
