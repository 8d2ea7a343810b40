"""What an agent says in a turn, bounded and without secrets, as its listener hears it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

import msgspec

from runner.errors import ProtocolError
from runner.host.redact import Redactor, redact
from runner.wire import acp

Secrets = Callable[[], Collection[str]]
"""The tokens of now that nobody may read in an answer."""

MAX_ANSWER = 1024 * 1024
MAX_THINKING = 4 * 1024 * 1024
MAX_TOOL_DETAIL = 4_000


class TurnListener(Protocol):
    """Hears a turn while it runs. Must not block."""

    def text(self, delta: str) -> None: ...
    def text_reset(self, text: str) -> None:
        """What was streamed so far is replaced by ``text``: a broken answer is begun again."""
        ...

    def thinking(self, delta: str) -> None: ...
    def tool_started(self, call_id: str, title: str, kind: str, detail: Any) -> None: ...
    def tool_finished(self, call_id: str, failed: bool, detail: str) -> None: ...
    def context(self, used: int, size: int) -> None: ...


class Hearing:
    """What is collected while a prompt runs."""

    def __init__(self, listener: TurnListener, secrets: Secrets) -> None:
        self._listener = listener
        self._secrets = secrets
        self._saying = Redactor(secrets)
        self._thinking = Redactor(secrets)
        self.said: list[str] = []
        self.size = 0
        self.thought = 0
        self.shown_again = 0
        self.step_start = 0

    def hear(self, update: acp.SessionUpdate) -> None:
        """One update of the agent.

        Raises:
            ProtocolError: it says more than an answer may hold.
        """
        match update:
            case acp.AgentMessageChunk(content=content, meta=meta):
                mark = ours(meta)
                if mark.get("reset"):
                    self.reset_step()
                if "step" in mark:
                    self.begin_step()
                if content.text:
                    self.say(content.text)
            case acp.AgentThoughtChunk(content=content) if content.text:
                self.think(content.text)
            case acp.ToolCall():
                self.pause()
                self._listener.tool_started(
                    update.tool_call_id[:100],
                    str(redact(update.title, self._secrets()))[:200],
                    (update.kind or "other")[:20],
                    _shorten(redact(update.raw_input, self._secrets())),
                )
            case acp.ToolCallUpdate(status="completed" | "failed"):
                self._listener.tool_finished(
                    update.tool_call_id[:100],
                    update.status == "failed",
                    _text_of(redact(update.content, self._secrets())),
                )
            case acp.UsageUpdate(used=used, size=size):
                self._listener.context(used, size)
            case _:
                pass

    def say(self, delta: str) -> None:
        self.size += len(delta)
        if self.size > MAX_ANSWER:
            raise ProtocolError(
                f"an answer of more than {MAX_ANSWER} characters", code="answer_too_long"
            )
        self._tell(self._saying.feed(delta))

    def end(self) -> str:
        """Everything that was said; nothing more comes."""
        self.pause()
        return "".join(self.said)

    def think(self, delta: str) -> None:
        self.thought += len(delta)
        if self.thought <= MAX_THINKING and (safe := self._thinking.feed(delta)):
            self._listener.thinking(safe)

    def pause(self) -> None:
        """The text is interrupted by something else: what was held back goes out before it."""
        self._tell(self._saying.flush())

    def begin_step(self) -> None:
        self.pause()
        self.step_start = len(self.said)

    def _tell(self, safe: str) -> None:
        if safe:
            self.said.append(safe)
            self._listener.text(safe)

    def reset_step(self) -> None:
        if not (self._saying.flush() or len(self.said) > self.step_start):
            return
        del self.said[self.step_start :]
        self.size = sum(map(len, self.said))
        self.shown_again += self.size
        if self.shown_again > 4 * MAX_ANSWER:
            raise ProtocolError("an answer that is begun again and again", code="protocol_flood")
        self._listener.text_reset("".join(self.said))


def ours(meta: dict[str, Any] | None) -> dict[str, Any]:
    """What the native agent adds to the protocol."""
    found = (meta or {}).get("nanokimi")
    return found if isinstance(found, dict) else {}


def _shorten(value: Any) -> Any:
    encoded = msgspec.json.encode(value)
    if len(encoded) <= MAX_TOOL_DETAIL:
        return value
    return encoded[:MAX_TOOL_DETAIL].decode("utf-8", "ignore") + "…"


def _text_of(content: list[dict[str, Any]] | None) -> str:
    for part in content or []:
        inner = part.get("content")
        text = inner.get("text") if isinstance(inner, dict) else None
        if isinstance(text, str):
            return text if len(text) <= MAX_TOOL_DETAIL else text[:MAX_TOOL_DETAIL] + "…"
    return ""
