"""Turns waiting messages into turns: one at a time in a group, groups side by side.

Every group with work has one task. It waits for its fair turn to have a sandbox, claims what
waits, runs it, writes the end, and goes on until nothing is left.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import structlog

from runner.errors import (
    LoginRequiredError,
    NanokimiError,
    PermanentError,
    ProtocolError,
    SandboxGoneError,
    TemporaryError,
)
from runner.host import events
from runner.host.decide import Hold, Retry, after_failure, frame
from runner.host.events import EventLog
from runner.host.pool import Pool, Slot
from runner.host.session import AgentSession, Answer
from runner.model import Event, Message, Turn, TurnState, Usage
from runner.store import Claim, Store
from runner.store.silence import is_silent

log = structlog.get_logger()

CANCEL_DEADLINE = 10.0
STORE_RETRY = 2.0
TURN_TIMEOUT = "turn_timeout"
INTERNAL = "internal"

# Failures after which the sandbox is of no more use, beside those that say so by their kind.
_BROKEN = frozenset({TURN_TIMEOUT, INTERNAL})


@dataclass
class _Run:
    """The turn that a group is running now, or waits to run again with another login than this."""

    turn: Turn
    messages: tuple[Message, ...]
    generation: int
    login: str
    session: AgentSession | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    next: Retry | Hold | None = None


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """``turn_timeout`` in seconds for each attempt."""

    turn_timeout: float
    max_attempts: int


Bring = Callable[[str, Sequence[Message]], Awaitable[None]]
"""Puts the files that came with messages into the workspace of the group with this folder."""


class Logins(Protocol):
    """What a turn that has no usable login waits for."""

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
        self._host = host
        self._log = log_
        self._pool = pool
        self._limits = limits
        self._logins = logins
        self._webhook = webhook
        self._bring = bring
        self._held: set[str] = set()
        self._excused: Counter[str] = Counter()
        self._woken: asyncio.Queue[str] = asyncio.Queue()
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._running: dict[str, _Run] = {}
        self._draining = asyncio.Event()

    def wake(self, group: str) -> None:
        """There may be something to do for this group."""
        if group in self._workers:
            self._again.add(group)
        else:
            self._woken.put_nowait(group)

    def running(self, group: str) -> Turn | None:
        """The turn that runs now."""
        run = self._running.get(group)
        return run.turn if run is not None else None

    def current(self, group: str) -> tuple[Turn, tuple[Message, ...]] | None:
        """The turn that is being tried now, and its messages; ``None`` between two tries."""
        run = self._running.get(group)
        return (run.turn, run.messages) if run is not None and run.next is None else None

    def running_count(self) -> int:
        return len(self._running)

    def working_count(self) -> int:
        """Turns that run now or are about to be tried again: not those that wait for a login."""
        return sum(not isinstance(run.next, Hold) for run in self._running.values())

    def held(self, group: str) -> bool:
        """The group's messages wait for a login."""
        return group in self._held

    def held_count(self) -> int:
        """Groups whose messages wait for a login."""
        return len(self._held)

    async def cancel(self, group: str, turn_id: str | None = None) -> Turn | None:
        """Cancel the running turn (only this one, if it is named); ``None``: it does not run."""
        run = self._running.get(group)
        if run is None or turn_id not in (None, run.turn.id):
            return None
        run.cancelled.set()
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
        while self._running and (left := deadline - time.monotonic()) > 0:
            workers = [self._workers[g] for g in self._running if g in self._workers]
            if not workers:
                break
            await asyncio.wait(workers, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def _gone(self, group: str, _worker: asyncio.Task[None]) -> None:
        self._workers.pop(group, None)
        if group in self._again and not self._draining.is_set():
            self._again.discard(group)
            self._woken.put_nowait(group)

    # -- one group ------------------------------------------------------------------------------

    async def _work(self, group: str) -> None:
        try:
            while not self._draining.is_set():
                self._again.discard(group)
                try:
                    worked = await self._one_turn(group)
                except NanokimiError as e:
                    # The store failed: nothing is lost, the turn stays as it was written last.
                    log.error("turn.not_written", group=group, code=e.code, error=e.message)
                except Exception:
                    # A bug of ours must not end the other groups' workers with this one.
                    log.exception("turn.bug", group=group)
                else:
                    if not worked and group not in self._again:
                        return
                    continue
                await _first(asyncio.sleep(STORE_RETRY), self._draining.wait())
        finally:
            self._running.pop(group, None)

    async def _one_turn(self, group: str) -> bool:
        """Run the group's turn until it has ended or we are told to stop; False: nothing waited."""
        while True:
            async with self._pool.slot(group) as slot:
                if self._draining.is_set():
                    return True
                run = self._running.get(group)
                if run is not None and run.cancelled.is_set():
                    await self._done(run.turn, Answer("", "cancelled", None))
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

    async def _claim(self, group: str, before: _Run | None) -> _Run | None:
        """The group's turn as ours; ``before`` is its attempt that failed, if there was one."""
        login = self._logins.fingerprint(group)
        with self._log.writing(group) as event_id:
            claim = await self._store.claim(group, self._host, event_id)
            if not isinstance(claim, Claim):
                return None  # nothing waits, or another host has it
            self._log.show(claim.event)
        run = _Run(claim.turn, claim.messages, claim.group.generation, login)
        if before is not None and before.turn.id == claim.turn.id:
            run.cancelled = before.cancelled
        self._running[group] = run
        return run

    async def _wait_to_retry(self, run: _Run, how: Retry | Hold) -> None:
        if isinstance(how, Retry):
            wait = asyncio.sleep(how.delay)
        else:
            wait = self._logins.another(run.turn.group, run.login)
        await _first(wait, self._draining.wait(), run.cancelled.wait())

    async def _attempt(self, slot: Slot, run: _Run) -> Retry | Hold | None:
        """Try once; what to wait for before the next try, or ``None`` when the turn has ended."""
        turn = run.turn
        error: NanokimiError
        try:
            answer = await self._until_cancelled(slot, run)
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
            await self._done(turn, answer or Answer("", "cancelled", None))
            if answer is None:
                await slot.discard()
            return None
        if error.code == LoginRequiredError.code and self._tries(turn) < self._max_attempts:
            error = await self._logins.refused(turn.group, run.login, error)
        after = await self._failed(turn, error)
        if isinstance(error, SandboxGoneError | ProtocolError) or error.code in _BROKEN:
            await slot.discard()
        return after

    async def _done(self, turn: Turn, answer: Answer) -> None:
        self._held.discard(turn.group)
        state = TurnState.CANCELLED if answer.stop_reason == "cancelled" else TurnState.DONE
        ended = replace(
            turn, state=state, text=answer.text, usage=answer.usage, finished_at=time.time()
        )
        told = finished_json(ended, answer.stop_reason)
        if (run := self._running.get(turn.group)) and is_silent(ended, run.messages):
            told["silent"] = True
        await self._finish(ended, events.TURN_FINISHED, told)
        log.info(
            "turn.finished",
            group=turn.group,
            turn=turn.id,
            status=str(state),
            ms=round((time.time() - turn.started_at) * 1000),
        )

    async def _until_cancelled(self, slot: Slot, run: _Run) -> Answer | None:
        """The answer; ``None`` when the turn was cancelled and the agent did not say so in time."""
        work = asyncio.create_task(self._prompt(slot, run), name="prompt")
        stop = asyncio.create_task(run.cancelled.wait(), name="cancel")
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and run.session is not None:
                await run.session.cancel()
                await asyncio.wait({work}, timeout=CANCEL_DEADLINE)
            if work.done():
                return work.result()
            return None
        finally:
            for task in (work, stop):
                task.cancel()
            await asyncio.wait({work, stop})

    async def _prompt(self, slot: Slot, run: _Run) -> Answer:
        limits = self._limits()
        session = await slot.session(run.generation)
        run.session = session
        if run.cancelled.is_set():
            return Answer("", "cancelled", None)
        await self._logins.ready(session)
        await self._bring(session.sandbox.info.folder, run.messages)
        listener = _ToEvents(self._log, run.turn)
        try:
            async with asyncio.timeout(limits.turn_timeout):
                return await session.prompt(run.turn.id, frame(run.messages), listener)
        except TimeoutError:
            raise PermanentError(
                f"the turn took longer than {limits.turn_timeout:g} s and was ended",
                hint="ask for less at once, or raise [host] turn_timeout",
                code=TURN_TIMEOUT,
            ) from None

    async def _failed(self, turn: Turn, error: NanokimiError) -> Retry | Hold | None:
        told: dict[str, Any] = {
            "turn_id": turn.id,
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
        }
        decision = after_failure(error, self._tries(turn), self._max_attempts)
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
            self._excused[turn.id] += 1
            if turn.group not in self._held:  # said once, not with every message
                self._held.add(turn.group)
                told |= {"will_retry": True, "held": True, "attempt": turn.attempt}
                self._log.tell(turn.group, events.TURN_FAILED, told, turn_id=turn.id)
            return decision
        self._held.discard(turn.group)
        if isinstance(decision, Retry):
            told |= {"will_retry": True, "retry_in": decision.delay, "attempt": turn.attempt}
            self._log.tell(turn.group, events.TURN_FAILED, told, turn_id=turn.id)
            return decision
        told |= {"will_retry": False, "attempt": turn.attempt}
        ended = replace(turn, state=TurnState.FAILED, error=told, finished_at=time.time())
        await self._finish(ended, events.TURN_FAILED, told)
        return None

    @property
    def _max_attempts(self) -> int:
        return self._limits().max_attempts

    def _tries(self, turn: Turn) -> int:
        """Attempts that count: a turn is not to fail because its login was away so often."""
        return turn.attempt - self._excused[turn.id]

    async def _finish(self, turn: Turn, kind: str, data: dict[str, Any]) -> None:
        self._excused.pop(turn.id, None)
        with self._log.writing(turn.group) as event_id:
            event = Event(event_id, turn.group, kind, data, turn.id)
            if await self._store.finish(turn, event, self._webhook(turn.group)):
                self._log.show(event)
            else:
                log.warning("turn.stale_end", group=turn.group, turn=turn.id)


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when the first of these is over; the others are cancelled."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class _ToEvents:
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
