"""Turns waiting messages into turns: one at a time in a group, groups side by side.

Every group with work has one task. It waits for its fair turn to have a sandbox, claims what
waits, runs it, writes the end, and goes on until nothing is left.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import structlog

from runner.errors import (
    ConflictError,
    LoginRequiredError,
    NanokimiError,
    PermanentError,
    ProtocolError,
    SandboxGoneError,
    TemporaryError,
)
from runner.host import events
from runner.host.attempt import TURN_TIMEOUT, Attempts, Bring, TurnLimits
from runner.host.decide import Hold, Retry, Tried, after_failure
from runner.host.events import EventLog
from runner.host.holds import Holds, told_of
from runner.host.pool import Pool, Slot
from runner.host.progress import finished_json
from runner.host.run import Logins, Question, Run
from runner.host.session import Answer
from runner.host.trouble import Trouble
from runner.model import Event, Message, Turn, TurnState
from runner.store import Claim, Store
from runner.store.silence import is_silent
from runner.store.turn_desk import Turns

log = structlog.get_logger()

STORE_RETRY = 2.0
INTERNAL = "internal"

# Failures after which the sandbox is of no more use, beside those that say so by their kind.
_BROKEN = frozenset({TURN_TIMEOUT, INTERNAL})


class Dispatcher:
    """See the module. :meth:`run` owns every task; :meth:`wake` says that a group has work."""

    def __init__(
        self,
        store: Store,
        host: str,
        log_: EventLog,
        pool: Pool,
        limits: Callable[[], TurnLimits],
        logins: Logins,
        webhook: Callable[[str], str],
        bring: Bring,
    ) -> None:
        self._store = store
        self._turns = Turns(store)
        self._attempts = Attempts(store, log_, limits, logins, bring)
        self._host = host
        self._log = log_
        self._pool = pool
        self._limits = limits
        self._logins = logins
        self._webhook = webhook
        self._holds = Holds()
        self._woken: asyncio.Queue[str] = asyncio.Queue()
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._running: dict[str, Run] = {}
        self._draining = asyncio.Event()

    def wake(self, group: str) -> None:
        """There may be something to do for this group."""
        if group in self._workers:
            self._again.add(group)
            self._nudge(group)
        else:
            self._woken.put_nowait(group)

    def arrived(self, message: Message) -> None:
        """A message has been accepted: it may begin a turn, join one, or answer a question."""
        if message.wakes:
            self.wake(message.group)
        else:
            self._nudge(message.group)

    def running(self, group: str) -> Turn | None:
        """The turn that runs now."""
        run = self._running.get(group)
        return run.turn if run is not None else None

    def current(self, group: str) -> tuple[Turn, tuple[Message, ...]] | None:
        """The turn that is being tried now, and its messages; ``None`` between two tries."""
        run = self._running.get(group)
        return (run.turn, run.messages) if run is not None and run.next is None else None

    def joinable(self, group: str) -> bool:
        """A turn is being worked on that a message may join."""
        run = self._running.get(group)
        if run is None or run.next is not None or run.session is None:
            return False
        return run.session.steers and not run.cancelled.is_set()

    def expect(self, turn: Turn, after: int) -> asyncio.Future[Message]:
        """The first message of the turn's conversation whose ``seq`` is higher than ``after``.

        It becomes part of the turn. To be called before the chat is asked. Whoever waits no more
        cancels the future.

        Raises:
            ConflictError: the turn does not run any more, or another question of it is open.
        """
        run = self._running.get(turn.group)
        if run is None or (run.turn.id, run.turn.attempt) != (turn.id, turn.attempt):
            raise ConflictError("the turn has ended", code="turn_ended")
        if run.question is not None and not run.question.answer.done():
            raise ConflictError(
                "another question is open", hint="wait for its answer", code="question_open"
            )
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        run.question = Question(after, answer)
        if there := next((m for m in run.messages if m.seq > after), None):
            answer.set_result(there)  # asked by an earlier attempt, and it has joined since
            run.answers.add(there.id)
        run.nudged.set()
        answer.add_done_callback(lambda _: run.nudged.set())  # others may join again
        return answer

    def running_count(self) -> int:
        return len(self._running)

    def working_count(self) -> int:
        """Turns that run now or are about to be tried again: not those that are held."""
        return sum(not isinstance(run.next, Hold) for run in self._running.values())

    def held(self, group: str) -> str:
        """The code of the failure for which the group's messages are held; empty: they are not."""
        return self._holds.why(group)

    def held_count(self) -> int:
        """Groups whose messages are held."""
        return self._holds.count()

    async def cancel(self, group: str, turn_id: str | None = None) -> Turn | None:
        """Cancel the running turn (only this one, if it is named); ``None``: it does not run.

        Raises:
            TemporaryError: it waited to be tried again, and its end cannot be written.
        """
        run = self._running.get(group)
        if run is None or turn_id not in (None, run.turn.id):
            return None
        run.cancelled.set()
        if run.next is not None and not run.ended:  # its worker may have to wait for a slot
            run.ended = True
            try:
                await self._done(run, None)
            except BaseException:
                run.ended = False
                raise
        return run.turn

    async def run(self) -> None:
        """Work until cancelled. Turns that are cut off stay claimed, for the next host."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                group = await self._woken.get()
                if group in self._workers or self._draining.is_set():
                    self._again.add(group)
                    continue
                worker = tasks.create_task(self._work(group), name=f"group {group[:40]}")
                self._workers[group] = worker
                worker.add_done_callback(functools.partial(self._gone, group))

    async def drain(self, deadline: float) -> None:
        """Begin no more turns, and give the running ones until ``deadline`` (monotonic seconds)."""
        self._draining.set()
        runs = dict(self._running)
        while self._running and (left := deadline - time.monotonic()) > 0:
            workers = [self._workers[g] for g in self._running if g in self._workers]
            if not workers:
                break
            await asyncio.wait(workers, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        self._say_left_open(runs | self._running)

    def _say_left_open(self, runs: Mapping[str, Run]) -> None:
        """Of ``runs``, those that go on at the next start: they are cut, or wait to be retried."""
        left = [
            run
            for group, run in runs.items()
            if not run.ended and (group in self._running or run.next is not None)
        ]
        for run in left:
            log.info("turn.left_open", group=run.turn.group, turn=run.turn.id)
        if left:
            log.warning("host.turns_left_open", count=len(left), hint="the next start goes on")

    def _nudge(self, group: str) -> None:
        if (run := self._running.get(group)) is not None:
            run.nudged.set()

    def _gone(self, group: str, _worker: asyncio.Task[None]) -> None:
        self._workers.pop(group, None)
        if group in self._again and not self._draining.is_set():
            self._again.discard(group)
            self._woken.put_nowait(group)

    # -- one group ------------------------------------------------------------------------------

    async def _work(self, group: str) -> None:
        worked = False
        trouble = Trouble("turn.not_written", group=group)
        try:
            while not self._draining.is_set():
                self._again.discard(group)
                try:
                    # To wait for a slot only to find nothing would cost others a warm sandbox.
                    if worked and not await self._store.has_work(group):
                        worked = False
                    else:
                        worked = await self._one_turn(group)
                except NanokimiError as e:
                    # The store failed: nothing is lost, the turn stays as it was written last.
                    trouble.met(e)
                except Exception:
                    # A bug of ours must not end the other groups' workers with this one.
                    log.exception("turn.bug", group=group)
                else:
                    trouble.over()
                    if not worked and group not in self._again:
                        return
                    continue
                await _first(asyncio.sleep(STORE_RETRY), self._draining.wait())
        finally:
            self._running.pop(group, None)
            self._holds.end(group)

    async def _one_turn(self, group: str) -> bool:
        """Run the group's turn until it has ended or we are told to stop; False: nothing waited."""
        while True:
            run = self._running.get(group)
            if run is not None and run.ended:
                self._running.pop(group, None)
                return True
            async with self._pool.slot(group) as slot:
                if self._draining.is_set():
                    return True
                if run is not None and run.cancelled.is_set():
                    if not run.ended:
                        await self._done(run, None)
                    self._running.pop(group, None)
                    return True
                run = await self._claim(group, run)
                if run is None:
                    return False
                run.next = await self._attempt(slot, run)
            if run.next is None:
                self._running.pop(group, None)
                return True
            await self._wait_to_retry(run, run.next)

    async def _claim(self, group: str, before: Run | None) -> Run | None:
        """The group's turn as ours; ``before`` is its attempt that failed, if there was one."""
        login = self._logins.fingerprint(group)
        with self._log.writing(group) as event_id:
            claim = await self._store.claim(group, self._host, event_id)
            if not isinstance(claim, Claim):
                return None  # nothing waits, or another host has it
            self._log.show(claim.event)
        run = Run.of(claim, login)
        if before is not None and before.turn.id == claim.turn.id:
            run.cancelled = before.cancelled
        self._running[group] = run
        return run

    async def _wait_to_retry(self, run: Run, how: Retry | Hold) -> None:
        group = run.turn.group
        waits = [asyncio.sleep(how.delay), self._draining.wait(), run.cancelled.wait()]
        if isinstance(how, Hold):
            if how.login:
                waits.append(self._logins.another(group, run.login))
            else:
                waits.append(self._holds.until_answered(self._logins.provider(group)))
        await _first(*waits)

    async def _attempt(self, slot: Slot, run: Run) -> Retry | Hold | None:
        """Try once; what to wait for before the next try, or ``None`` when the turn has ended."""
        turn = run.turn
        error: NanokimiError
        try:
            answer = await self._attempts.run(slot, run)
        except NanokimiError as e:
            error = e
        except OSError as e:
            error = TemporaryError(f"the system refused: {e}", code="system_error")
        except Exception as e:
            log.exception("turn.bug", group=turn.group, turn=turn.id)
            error = PermanentError(
                f"an internal error ({type(e).__name__})", hint="see the log", code=INTERNAL
            )
        else:
            await self._done(run, answer)
            if answer is None:
                await slot.discard()
            return None
        if error.code == LoginRequiredError.code and _tried(turn).counted < self._max_attempts:
            error = await self._logins.refused(turn.group, run.login, error)
        after = await self._failed(run, error)
        if isinstance(error, SandboxGoneError | ProtocolError) or error.code in _BROKEN:
            await slot.discard()
        return after

    async def _done(self, run: Run, answer: Answer | None) -> None:
        """Write the end of a turn that did not fail; without an answer it was cancelled."""
        turn = run.turn
        self._holds.end(turn.group)
        heard = run.heard(answer)
        answer = answer or Answer("", "cancelled", None)
        state = TurnState.CANCELLED if answer.stop_reason == "cancelled" else TurnState.DONE
        if state is TurnState.DONE:
            self._holds.answered(self._logins.provider(turn.group))
        ended = replace(
            turn, state=state, text=answer.text, usage=answer.usage, finished_at=time.time()
        )
        told = finished_json(ended, answer.stop_reason)
        if is_silent(ended, run.messages):
            told["silent"] = True
        await self._finish(ended, events.TURN_FINISHED, told, heard)
        log.info(
            "turn.finished",
            group=turn.group,
            turn=turn.id,
            status=str(state),
            ms=round((time.time() - turn.started_at) * 1000),
        )

    async def _failed(self, run: Run, error: NanokimiError) -> Retry | Hold | None:
        turn, limits = run.turn, self._limits()
        told: dict[str, Any] = {
            "turn_id": turn.id,
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "attempt": turn.attempt,
        }
        decision = after_failure(error, _tried(turn), limits.max_attempts, limits.max_hold)
        log.warning(
            "turn.failed",
            group=turn.group,
            turn=turn.id,
            attempt=turn.attempt,
            code=error.code,
            error=error.message,
            next=type(decision).__name__,
        )
        if isinstance(decision, Hold):
            told |= {**told_of(error), "will_retry": True, "held": True}
            return decision if await self._hold(turn, error.code, told) else None
        self._holds.end(turn.group)
        if isinstance(decision, Retry):
            if turn.held_since is not None:
                await self._turns.let_go(turn)
            told |= {"will_retry": True, "retry_in": decision.delay}
            self._log.tell(turn.group, events.TURN_FAILED, told, turn_id=turn.id)
            return decision
        told |= {"will_retry": False}
        ended = replace(turn, state=TurnState.FAILED, error=told, finished_at=time.time())
        await self._finish(ended, events.TURN_FAILED, told, run.heard(None))
        return None

    async def _hold(self, turn: Turn, code: str, told: dict[str, Any]) -> bool:
        """Let the turn wait, and say so when it is news; false: another host has taken it."""
        if self._holds.is_news(turn.group, code, first=turn.held_since is None):
            with self._log.writing(turn.group) as event_id:
                notice = Event(event_id, turn.group, events.TURN_FAILED, told, turn.id)
                held = await self._turns.hold(turn, notice, self._webhook(turn.group))
                if held is not None:
                    self._holds.begin(turn.group, code)
                    self._log.show(notice)
            return held is not None
        if await self._turns.hold(turn) is None:
            return False
        self._holds.begin(turn.group, code)
        return True

    @property
    def _max_attempts(self) -> int:
        return self._limits().max_attempts

    async def _finish(
        self, turn: Turn, kind: str, data: dict[str, Any], heard: frozenset[str]
    ) -> None:
        with self._log.writing(turn.group) as event_id:
            event = Event(event_id, turn.group, kind, data, turn.id)
            told = await self._store.finish(turn, event, self._webhook(turn.group), heard)
            if told is not None:
                self._log.show(told)
            else:
                log.warning("turn.stale_end", group=turn.group, turn=turn.id)
        if told is not None and told.data.get("released"):
            self._again.add(turn.group)


def _tried(turn: Turn) -> Tried:
    held = time.time() - turn.held_since if turn.held_since is not None else 0.0
    return Tried(turn.attempt, turn.excused, held)


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when the first of these is over; the others are cancelled."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
