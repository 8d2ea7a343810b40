"""A turn while a group runs it: what the dispatcher, its attempt and the tools share of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from runner.errors import NanokimiError
from runner.host.decide import Hold, Retry
from runner.host.session import AgentSession, Answer
from runner.model import Message, Turn
from runner.store import Claim


class Logins(Protocol):
    """What a turn needs to know of the credential that its model is called with."""

    def provider(self, group: str) -> str:
        """Names who answers the group's model calls."""
        ...

    def fingerprint(self, group: str) -> str:
        """Names the credential that the group's model is called with now; never holds it."""
        ...

    async def ready(self, session: AgentSession) -> None:
        """See that the session's sandbox has the credential of now. Raises: NanokimiError."""
        ...

    async def refused(self, group: str, than: str, error: NanokimiError) -> NanokimiError:
        """What it means that a turn, begun with the credential ``than``, failed for want of one."""
        ...

    async def another(self, group: str, than: str) -> None:
        """Return when it is worth trying again with what is there instead of ``than``."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """Somebody in the chat was asked: the first message after ``after`` is the answer."""

    after: int
    answer: asyncio.Future[Message]


@dataclass
class Run:
    """The turn that a group is running now, or waits to run again.

    ``joined`` are the messages that came while it ran; ``told`` of them the agent has confirmed,
    and ``answers`` are those that went to a question. ``login`` names the credential of this
    attempt, ``nudged`` says that messages may wait to join. ``ended``: it was cancelled between two
    tries, and nothing is left to do.
    """

    turn: Turn
    messages: tuple[Message, ...]
    generation: int
    session_id: str
    login: str
    joined: tuple[Message, ...] = ()
    told: set[str] = field(default_factory=set)
    answers: set[str] = field(default_factory=set)
    session: AgentSession | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    nudged: asyncio.Event = field(default_factory=asyncio.Event)
    question: Question | None = None
    next: Retry | Hold | None = None
    ended: bool = False

    @classmethod
    def of(cls, claim: Claim, login: str) -> Run:
        """A new attempt. What joined an earlier one is brought to the agent again."""
        return cls(
            claim.turn,
            claim.messages,
            claim.group.generation,
            claim.session_id,
            login,
            joined=tuple(m for m in claim.messages if m.steered and m.id not in claim.answers),
            answers=set(claim.answers),
        )

    def add(self, messages: Iterable[Message]) -> None:
        new = tuple(messages)
        self.joined += new
        self.messages += new

    def heard(self, answer: Answer | None) -> frozenset[str]:
        """Messages that joined and were heard; the agent knows best, when it says it."""
        if answer is not None and answer.heard is not None:
            return answer.heard | self.answers
        return frozenset(self.told | self.answers)
