"""How the demo model reads a request: the newest words, what came before, how far the turn is."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]

_FRAME = re.compile(r"<message\b[^>]*>(.*?)</message>", re.DOTALL)
_MENTION = re.compile(r"^\s*@\w+\s+")


@dataclass(frozen=True, slots=True)
class Talk:
    """One request as the model sees it.

    ``prompt`` is the last user message as it came, ``chat`` its words without frames, ``earlier``
    the words of the user messages before it, ``results`` what the tools of this turn answered,
    ``steps_done`` how many tool steps this turn has had, ``tools`` the offered names.
    """

    prompt: str
    chat: str
    earlier: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    steps_done: int = 0
    tools: frozenset[str] = field(default_factory=frozenset)


def read_talk(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Talk:
    """Split the request at its last user message."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
    prompt = text_of(messages[last]) if last >= 0 else ""
    after = messages[last + 1 :]
    return Talk(
        prompt=prompt,
        chat=unframe(prompt),
        earlier=tuple(unframe(text_of(m)) for m in messages[: max(last, 0)] if m["role"] == "user"),
        results=tuple(text_of(m) for m in after if m["role"] == "tool"),
        steps_done=sum(1 for m in after if m.get("tool_calls")),
        tools=frozenset(t["function"]["name"] for t in tools),
    )


def text_of(message: Message) -> str:
    """The text of a message whose content may be a string, parts or nothing."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return content if isinstance(content, str) else ""


def unframe(text: str) -> str:
    """The chat's own words out of ``<message sender="…" time="…">…</message>`` frames.

    Text without a frame is returned as it is. Leading mentions (``@kimi``) are dropped.
    """
    frames = _FRAME.findall(text)
    words = "\n".join(html.unescape(frame).strip() for frame in frames) if frames else text
    return "\n".join(_MENTION.sub("", line) for line in words.splitlines())


def outside_frames(text: str) -> str:
    """What the host or an engine itself wrote around the chat's words."""
    return _FRAME.sub("", text)
