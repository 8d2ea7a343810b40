"""The host's rules as pure functions: no clock, no I/O, no log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.sax.saxutils import escape, quoteattr

from runner.errors import LoginRequiredError, NanokimiError, TemporaryError
from runner.host.scheduled import scheduled
from runner.model import Message
from runner.store.silence import TASK_CHANNEL

FIRST_DELAY = 1.0
LONGEST_DELAY = 300.0


def wakes(text: str, trigger: str, *, direct: bool) -> bool:
    """Does this message ask the agent for an answer, or is it only context for a later one?

    In a direct chat, and where ``trigger`` is empty, every message does. Otherwise the trigger
    must stand in it as a word of its own, in any case: ``@kimi`` in "hey @Kimi, look", but not in
    "me@kimi.example" or "@kimiko".
    """
    if direct or not trigger:
        return True
    return re.search(rf"(?<![\w@.]){re.escape(trigger)}(?!\w)", text, re.IGNORECASE) is not None


def frame(messages: Sequence[Message]) -> str:
    """Chat messages as the agent gets them: who said what and when, never as bare text.

    The words of a stranger stand inside an element, escaped, so they neither become a slash
    command of an engine nor can pass for somebody else's. Files that came with a message are named
    at its end by their paths in the workspace.
    """
    return "\n".join(
        scheduled(m, _framed(m)) if m.channel == TASK_CHANNEL else _framed(m) for m in messages
    )


def _framed(m: Message) -> str:
    return (
        f"<message sender={quoteattr(m.sender or 'user')}"
        f' time="{datetime.fromtimestamp(m.created_at, UTC):%Y-%m-%dT%H:%M:%SZ}">\n'
        f"{escape(m.text)}\n{_attached(m)}</message>"
    )


def _attached(message: Message) -> str:
    return "".join(
        f"<attachment path={quoteattr(a.path)} name={quoteattr(a.name)}"
        f' size="{a.size}" type={quoteattr(a.media_type)}/>\n'
        for a in message.attachments
    )


@dataclass(frozen=True, slots=True)
class Retry:
    """Try the same turn again after ``delay`` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the turn until there is another login: nothing is dropped while the operator acts."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Tell the chat that the turn failed."""


def after_failure(error: NanokimiError, attempt: int, max_attempts: int) -> Retry | Hold | GiveUp:
    """What to do after the ``attempt``-th try (from 1) of a turn has failed with ``error``."""
    if error.code == LoginRequiredError.code:
        return Hold()
    if not isinstance(error, TemporaryError) or attempt >= max_attempts:
        return GiveUp()
    delay = min(FIRST_DELAY * 2 ** (attempt - 1), LONGEST_DELAY)
    if error.retry_after is not None:
        delay = max(delay, min(error.retry_after, LONGEST_DELAY))
    return Retry(delay)
