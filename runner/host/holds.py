"""Turns that wait for something outside: a model that answers, a login, a place for the agent.

Nothing is dropped meanwhile. Whoever waits for a model tries again now and then, and at once when
any turn has been answered by the same provider.
"""

from __future__ import annotations

import asyncio

from runner.errors import (
    ENGINE_SILENT,
    EngineError,
    ImageMissingError,
    LoginRequiredError,
    NanokimiError,
    PermanentError,
)

NOTHING_TO_SEND = "nothing needs to be sent again"

_KEPT = "Your message is kept and is answered as soon as it works again."
_MODEL_AWAY = f"The model cannot be reached now. {_KEPT}"
_NO_SANDBOX = f"The agent cannot be started now. {_KEPT}"
_TOLD = {
    LoginRequiredError.code: f"The login to the model's provider has ended. {_KEPT}",
    "quota_exceeded": f"What the model's provider allows is used up. {_KEPT}",
    "membership": f"The model's provider asks for a membership that covers the model. {_KEPT}",
    ImageMissingError.code: _NO_SANDBOX,
    ENGINE_SILENT: _NO_SANDBOX,
}


class Holds:
    """What is held in this host now, and why; the store has how long."""

    def __init__(self) -> None:
        self._why: dict[str, str] = {}
        self._answers: dict[str, asyncio.Event] = {}

    def is_news(self, group: str, code: str, *, first: bool) -> bool:
        """Does the group's chat not know yet that its turn waits because of ``code``?

        ``first``: it did not wait before, also not in an earlier run of the host.
        """
        return first or self._why.get(group) not in (None, code)

    def begin(self, group: str, code: str) -> None:
        """The group's turn waits because of ``code``."""
        self._why[group] = code

    def end(self, group: str) -> None:
        self._why.pop(group, None)

    def why(self, group: str) -> str:
        """The code of the failure that holds the group; empty when nothing does."""
        return self._why.get(group, "")

    def count(self) -> int:
        return len(self._why)

    def answered(self, provider: str) -> None:
        """The provider has answered a turn: it works."""
        if (waiting := self._answers.pop(provider, None)) is not None:
            waiting.set()

    async def until_answered(self, provider: str) -> None:
        """Return when the provider has answered any turn from now on."""
        await self._answers.setdefault(provider, asyncio.Event()).wait()


def told_of(error: NanokimiError) -> dict[str, str]:
    """What a chat is told of a turn that waits because of ``error``: words for people.

    They can only wait, so what an operator needs to know stands apart, as ``reason``.
    """
    reason = error.message
    if isinstance(error, PermanentError | EngineError) and error.hint:
        reason = f"{reason}: {error.hint}"
    told = _TOLD.get(error.code, _MODEL_AWAY)
    return {"message": told, "hint": NOTHING_TO_SEND, "reason": reason}
