"""The transactions of :mod:`runner.store.turns`."""

from __future__ import annotations

from runner.model import Event, Turn, TurnState
from runner.store import turns
from runner.store.store import Store
from runner.store.turns import Joined, Retried


class Turns:
    """Turns that are held, joined, listed and tried again. Each method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, group: str, state: TurnState | None, limit: int) -> list[Turn]:
        """The group's newest turns, newest first. Raises: NotFoundError."""
        return await self._store.read(lambda c: turns.page(c, group, state, limit))

    async def hold(self, turn: Turn, notice: Event | None = None, webhook: str = "") -> Turn | None:
        """Excuse this attempt; the turn as it is now, ``None`` when another attempt runs.

        ``notice`` is written for the chat to be told, at its own address or else at ``webhook``.
        """
        return await self._store.transact(
            lambda c: turns.hold(c, turn, notice, webhook), turn.group
        )

    async def let_go(self, turn: Turn) -> None:
        """What held the turn is over."""
        await self._store.transact(lambda c: turns.let_go(c, turn), turn.group)

    async def count_dead(self, group: str) -> int:
        """Failed turns of the group with messages that nobody has had tried again."""
        return await self._store.read(lambda c: turns.count_dead(c, group))

    async def retry(self, group: str, turn_id: str | None) -> Retried:
        """Let failed messages, of one turn or of all, wait again. Raises: NotFoundError."""
        return await self._store.transact(lambda c: turns.retry(c, group, turn_id), group)

    async def join(
        self, turn: Turn, event_id: int, *, answer_after: int | None = None
    ) -> Joined | None:
        """Make what waits part of a running turn, or the first message after a question."""
        return await self._store.transact(
            lambda c: turns.join(c, turn, event_id, answer_after=answer_after), turn.group
        )
