"""One attempt at a turn: its prompt, what joins it meanwhile, and its end by wish or by the clock.

A message that joins is part of the turn in the store before the agent hears of it. What the agent
did not hear in time is known at the turn's end, and waits for the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from runner.errors import NanokimiError, PermanentError
from runner.host import events
from runner.host.decide import frame
from runner.host.events import EventLog
from runner.host.pool import Slot
from runner.host.progress import ToEvents
from runner.host.run import Logins, Run
from runner.host.session import AgentSession, Answer
from runner.model import Message
from runner.store import Store
from runner.store.turn_desk import Turns

log = structlog.get_logger()

CANCEL_DEADLINE = 10.0
TYPING = 5.0
TURN_TIMEOUT = "turn_timeout"


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """``turn_timeout`` and ``max_hold`` in seconds, the former for each attempt.

    ``steer``: messages that come during a turn may join it.
    """

    turn_timeout: float
    max_attempts: int
    max_hold: float
    steer: bool


Bring = Callable[[str, Sequence[Message]], Awaitable[frozenset[str]]]
"""Puts the files that came with messages into the workspace of the group with this folder.

What it returns are the paths of those that are gone."""


class Attempts:
    """Runs attempts, each in the slot that its group has."""

    def __init__(
        self,
        store: Store,
        log_: EventLog,
        limits: Callable[[], TurnLimits],
        logins: Logins,
        bring: Bring,
    ) -> None:
        self._store = store
        self._turns = Turns(store)
        self._log = log_
        self._limits = limits
        self._logins = logins
        self._bring = bring

    async def run(self, slot: Slot, run: Run) -> Answer | None:
        """The answer; ``None`` when the turn was cancelled and the agent did not say so in time."""
        work = asyncio.create_task(self._prompt(slot, run), name="prompt")
        stop = asyncio.create_task(run.cancelled.wait(), name="cancel")
        typing = asyncio.create_task(self._typing(run), name="typing")
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and run.session is not None:
                await run.session.cancel()
                await asyncio.wait({work}, timeout=CANCEL_DEADLINE)
            if work.done():
                return work.result()
            return None
        finally:
            if run.question is not None:
                run.question.answer.cancel()  # the turn ends, or its next attempt asks again
            for task in (work, stop, typing):
                task.cancel()
            await asyncio.wait({work, stop, typing})

    async def _prompt(self, slot: Slot, run: Run) -> Answer:
        limits, turn = self._limits(), run.turn
        session = await slot.session(run.generation)
        run.session = session
        if run.cancelled.is_set():
            return Answer("", "cancelled", None)
        await self._logins.ready(session)
        gone = await self._bring(session.sandbox.info.folder, run.messages)
        generation = session.sandbox.info.generation
        if generation > run.generation + 1:  # a reset came before the sandbox was made
            run.session_id = ""
        began = await session.converse(turn.session, run.session_id)
        if began != run.session_id:
            await self._store.set_session(turn.group, began, generation, turn.session)
        told = run.messages
        if session.steers:  # what joined an earlier attempt joins again, by its id
            told = tuple(m for m in run.messages if m not in run.joined)
        else:
            run.told.update(m.id for m in run.joined)
        joining = asyncio.create_task(self._join(session, run), name="join")
        try:
            async with asyncio.timeout(limits.turn_timeout):
                return await session.prompt(turn.id, frame(told, gone), ToEvents(self._log, turn))
        except TimeoutError:
            raise PermanentError(
                f"the turn took longer than {limits.turn_timeout:g} s and was ended",
                hint="ask for less at once, or raise [host] turn_timeout",
                code=TURN_TIMEOUT,
            ) from None
        finally:
            joining.cancel()
            await asyncio.wait({joining})

    async def _typing(self, run: Run) -> None:
        turn = run.turn
        while True:
            await asyncio.sleep(TYPING)
            self._log.tell(turn.group, events.TURN_TYPING, {"turn_id": turn.id}, turn_id=turn.id)

    # -- messages that join ---------------------------------------------------------------------

    async def _join(self, session: AgentSession, run: Run) -> None:
        """Bring messages to the running turn, until cancelled."""
        heard = not session.steers or await self._steer(session, run, run.joined)
        while heard and not run.cancelled.is_set():
            try:
                heard = await self._join_all(session, run)
            except NanokimiError as e:  # nothing is lost: they wait for the next turn
                log.warning("turn.not_joined", group=run.turn.group, code=e.code, error=e.message)
            await run.nudged.wait()
            run.nudged.clear()

    async def _join_all(self, session: AgentSession, run: Run) -> bool:
        """Let join what may; false when the agent does not listen any more."""
        while not run.cancelled.is_set():  # what is said after a cancel is not part of it
            asked = run.question if run.question and not run.question.answer.done() else None
            if asked is None and not (session.steers and self._limits().steer):
                return True
            with self._log.writing(run.turn.group) as event_id:
                joined = await self._turns.join(
                    run.turn, event_id, answer_after=asked.after if asked else None
                )
                if joined is None:
                    return True
                self._log.show(joined.event)
            run.add(joined.messages)
            left = _answer(run, joined.messages)
            if left and (not session.steers or not await self._steer(session, run, left)):
                return False
        return True

    async def _steer(self, session: AgentSession, run: Run, messages: tuple[Message, ...]) -> bool:
        for message in messages:
            try:
                gone = await self._bring(session.sandbox.info.folder, (message,))
                await session.steer(message.id, frame((message,), gone))
            except NanokimiError as e:
                log.info("turn.not_steered", group=run.turn.group, code=e.code, error=e.message)
                return False  # and none after it, or their order would be lost
            run.told.add(message.id)
        return True


def _answer(run: Run, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Hand the open question its answer; the others are for the agent.

    It may have been asked while these joined.
    """
    asked = run.question
    if asked is None or asked.answer.done():
        return messages
    said = next((m for m in messages if m.seq > asked.after), None)
    if said is None:
        return messages
    asked.answer.set_result(said)
    run.answers.add(said.id)
    return tuple(m for m in messages if m is not said)
