"""What a turn says while it runs and when it has ended, as events of its group."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from runner.host import events
from runner.host.events import EventLog
from runner.model import Turn, Usage


class ToEvents:
    """A :class:`~runner.host.session.TurnListener` that tells the group's event log."""

    def __init__(self, log_: EventLog, turn: Turn) -> None:
        self._log = log_
        self._turn = turn

    def text(self, delta: str) -> None:
        self._tell(events.TEXT_DELTA, {"text": delta})

    def text_reset(self, text: str) -> None:
        self._tell(events.TEXT_RESET, {"text": text})

    def thinking(self, delta: str) -> None:
        self._tell(events.THINKING_DELTA, {"text": delta})

    def tool_started(self, call_id: str, title: str, kind: str, detail: Any) -> None:
        self._tell(
            events.TOOL_STARTED,
            {"call_id": call_id, "title": title, "kind": kind, "input": detail},
        )

    def tool_finished(self, call_id: str, failed: bool, detail: str) -> None:
        self._tell(events.TOOL_FINISHED, {"call_id": call_id, "failed": failed, "output": detail})

    def context(self, used: int, size: int) -> None:
        self._tell(events.USAGE, {"context_used": used, "context_size": size})

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        turn = self._turn
        self._log.tell(turn.group, kind, {"turn_id": turn.id, **data}, turn_id=turn.id)


def finished_json(turn: Turn, stop_reason: str | None) -> dict[str, Any]:
    """The data of a ``turn.finished`` event."""
    return {
        "turn_id": turn.id,
        "status": str(turn.state),
        "text": turn.text,
        "stop_reason": stop_reason,
        "usage": usage_json(turn.usage),
    }


def usage_json(usage: Usage | None) -> dict[str, Any] | None:
    """Tokens by kind; a kind that the provider did not report is ``null``."""
    return asdict(usage) if usage is not None else None
