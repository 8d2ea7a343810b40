"""When a scheduled run has nothing to tell, its chat is not told."""

from __future__ import annotations

from collections.abc import Iterable

from runner.model import Message, Turn, TurnState

TASK_CHANNEL = "task"
"""The channel of messages that a schedule has sent. No chat's message has it."""

SILENCE = "NOTHING_TO_REPORT"
"""What an agent answers to a scheduled task that has nothing to tell."""


def is_silent(ended: Turn, messages: Iterable[Message]) -> bool:
    """Is this the end of scheduled runs alone, and is its answer none? Pure.

    A person who has asked gets what the agent said, whatever it is.
    """
    asked = {m.channel for m in messages if m.wakes}
    if ended.state is not TurnState.DONE or asked != {TASK_CHANNEL}:
        return False
    return ended.text.strip().strip("`*.\"'").strip() in ("", SILENCE)
