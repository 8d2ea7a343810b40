"""The host's rules as pure functions: no clock, no I/O, no log."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.sax.saxutils import escape, quoteattr

from runner.errors import (
    ENGINE_SILENT,
    ImageMissingError,
    LoginRequiredError,
    NanokimiError,
    TemporaryError,
)
from runner.host.scheduled import scheduled
from runner.model import Message
from runner.store.silence import TASK_CHANNEL

FIRST_DELAY = 1.0
LONGEST_DELAY = 300.0
LONGEST_HOLD_DELAY = 60.0

HELD = frozenset(
    {
        LoginRequiredError.code,
        "provider_unavailable",
        "provider_timeout",
        "rate_limited",
        "stream_cut",
        "quota_exceeded",
        "membership",
        ImageMissingError.code,
        ENGINE_SILENT,
    }
)
"""Failures that say nothing about the message: the model cannot be reached or is not paid for, or
there is nothing to run an agent in."""


def wakes(text: str, trigger: str, *, direct: bool) -> bool:
    """Does this message ask the agent for an answer, or is it only context for a later one?

    In a direct chat, and where ``trigger`` is empty, every message does. Otherwise the trigger
    must stand in it as a word of its own, in any case: ``@kimi`` in "hey @Kimi, look", but not in
    "me@kimi.example" or "@kimiko".
    """
    if direct or not trigger:
        return True
    return re.search(rf"(?<![\w@.]){re.escape(trigger)}(?!\w)", text, re.IGNORECASE) is not None


def frame(messages: Sequence[Message], gone: Collection[str] = ()) -> str:
    """Chat messages as the agent gets them: who said what and when, never as bare text.

    The words of a stranger stand inside an element, escaped, so they neither become a slash
    command of an engine nor can pass for somebody else's. Files that came with a message are named
    at its end by their paths in the workspace, or as missing when those are among ``gone``.
    """
    return "\n".join(
        scheduled(m, _framed(m, gone)) if m.channel == TASK_CHANNEL else _framed(m, gone)
        for m in messages
    )


def _framed(m: Message, gone: Collection[str]) -> str:
    return (
        f"<message sender={quoteattr(m.sender or 'user')}"
        f' time="{datetime.fromtimestamp(m.created_at, UTC):%Y-%m-%dT%H:%M:%SZ}">\n'
        f"{escape(m.text)}\n{_attached(m, gone)}</message>"
    )


def _attached(message: Message, gone: Collection[str]) -> str:
    return "".join(
        f'<attachment name={quoteattr(a.name)} missing="it is not there any more"/>\n'
        if a.path in gone
        else f"<attachment path={quoteattr(a.path)} name={quoteattr(a.name)}"
        f' size="{a.size}" type={quoteattr(a.media_type)}/>\n'
        for a in message.attachments
    )


@dataclass(frozen=True, slots=True)
class Retry:
    """Try the same turn again after ``delay`` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the turn until what is outside works again: nothing is dropped meanwhile.

    It is tried again after ``delay`` seconds, or earlier: when there is another ``login``, else
    when its provider has answered somebody.
    """

    delay: float
    login: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Tell the chat that the turn failed."""


@dataclass(frozen=True, slots=True)
class Tried:
    """How often a turn was tried: ``attempt`` times, of which ``excused`` do not count.

    ``held`` is for how many seconds it has been held already.
    """

    attempt: int
    excused: int = 0
    held: float = 0.0

    @property
    def counted(self) -> int:
        return self.attempt - self.excused


def after_failure(
    error: NanokimiError, tried: Tried, max_attempts: int, max_hold: float
) -> Retry | Hold | GiveUp:
    """What to do after a try of a turn has failed with ``error``.

    What is no fault of the message's holds the turn, for ``max_hold`` seconds at most.
    """
    attempt = tried.counted
    if error.code in HELD:
        left = max_hold - tried.held
        if left <= 0:
            return GiveUp()
        if error.code == LoginRequiredError.code:
            return Hold(left, login=True)
        wish = error.retry_after if isinstance(error, TemporaryError) else None
        delay = max(FIRST_DELAY * 2 ** min(tried.excused, 10), min(wish or 0.0, LONGEST_DELAY))
        return Hold(min(max(delay, 0.0), LONGEST_HOLD_DELAY, left))
    if not isinstance(error, TemporaryError) or attempt >= max_attempts:
        return GiveUp()
    delay = min(FIRST_DELAY * 2 ** (attempt - 1), LONGEST_DELAY)
    if error.retry_after is not None:
        delay = max(delay, min(error.retry_after, LONGEST_DELAY))
    return Retry(delay)
