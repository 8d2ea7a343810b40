"""The loop of one turn: ask, run the tools, until the model is done or a limit is reached.

What comes next is decided by :func:`decide` from the journal's record alone, so a turn that broke
off anywhere goes on from there in another sandbox.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from runner.agent import chat, compaction, prompt, request, tools
from runner.agent.chat import Call
from runner.agent.completion import Delta
from runner.agent.conversation import TurnRecord
from runner.agent.failures import POISON, ModelFailure
from runner.agent.journal import (
    Compacted,
    ModelSaid,
    Steer,
    Steered,
    ToolSaid,
    TurnDropped,
    TurnEnded,
    UserSaid,
)
from runner.agent.notes import note
from runner.agent.provider import Model
from runner.agent.session import Session
from runner.agent.tools.box import Toolbox
from runner.agent.tools.tool import Room
from runner.agent.updates import Updates, tool_call_id
from runner.errors import PermanentError
from runner.settings.container import ContainerSettings, LoopControl
from runner.wire import acp

INTERRUPTED = "interrupted: the sandbox was replaced while this ran; its effect is unknown"
MIN_SUMMARY_TOKENS = 4_000
CANCELLED = "cancelled by the user"


@dataclass(frozen=True, slots=True)
class Ask:
    """The model is next."""


@dataclass(frozen=True, slots=True)
class RunTools:
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The prompt is said once more (``max_ralph_iterations``)."""


@dataclass(frozen=True, slots=True)
class Finish:
    stop: acp.StopReason


def decide(
    record: TurnRecord, limits: LoopControl, *, steered: bool
) -> Ask | RunTools | Repeat | Finish:
    """What comes next in a turn. ``steered``: there is text the model has not heard yet."""
    if record.pending:
        return RunTools(tuple(record.pending))
    if record.answered:
        if record.finish == "length":
            return Finish("max_tokens")
        if record.finish == "content_filter":
            return Finish("refusal")
    if record.answered and not steered:
        ralph = limits.max_ralph_iterations
        if ralph == 0 or 0 < ralph <= record.repeats:
            return Finish("end_turn")
    if record.steps >= limits.max_steps_per_turn:
        return Finish("max_turn_requests")
    return Repeat() if record.answered and not steered else Ask()


class Turn:
    """One running turn of a session.

    Errors of :meth:`run`: :class:`ModelFailure` and the other house errors; the session can be used
    again after any of them. A failure that may pass leaves the turn open: the same turn id goes on.
    """

    def __init__(
        self,
        id_: str,
        session: Session,
        model: Model,
        settings: ContainerSettings,
        room: Room,
        updates: Updates,
        box: Toolbox,
        offers: str | None,
    ) -> None:
        self.id = id_
        self._session = session
        self._talk = session.talk
        self._model = model
        self._settings = settings
        self._room = room
        self._updates = updates
        self._box = box
        self._offers = offers
        self._system = b""
        self._partial: list[str] = []
        self._task: asyncio.Task[acp.PromptResult] | None = None
        self._cancelled = False
        self._begun = asyncio.Event()

    def start(self, text: str) -> asyncio.Task[acp.PromptResult]:
        """Run as a task; end it with :meth:`cancel` or by cancelling the task."""
        self._task = asyncio.create_task(self._run(text), name=f"turn {self.id[:40]}")
        return self._task

    @property
    def cancelled(self) -> bool:
        """The user wished so; the turn may still be ending."""
        return self._cancelled

    def cancel(self) -> None:
        """The user's wish: the turn ends as ``cancelled``."""
        if self._task is not None and not self._task.done() and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    async def steer(self, text: str, id_: str = "") -> bool:
        """Text for the model before its next answer; durable when this returns.

        False when a steer of this id is known already. The turn's result says which ids were
        heard: one that came with the last answer may not have been.

        Raises:
            PermanentError: ``no_turn``: the turn ends or has ended.
        """
        task = self._task
        if task is not None and not self._begun.is_set():
            begun = asyncio.create_task(self._begun.wait(), name="turn begun")
            await asyncio.wait({begun, task}, return_when=asyncio.FIRST_COMPLETED)
            begun.cancel()
        if id_ and self._talk.knows(id_):
            return False
        if task is None or task.done() or self._cancelled or not self._is_current():
            raise PermanentError("the turn has ended", hint="send a prompt", code="no_turn")
        self._session.note(Steer(turn=self.id, message=msgspec.Raw(chat.user(text)), id=id_))
        return True

    async def _run(self, text: str) -> acp.PromptResult:
        try:
            return await self._answer(text)
        except asyncio.CancelledError:
            if not self._cancelled:
                raise  # the agent ends: the turn stays open and goes on in the next sandbox
            return await self._end_cancelled()
        except ModelFailure as failure:
            if failure.code in POISON and self._is_current():
                self._session.note(TurnDropped(turn=self.id))
            raise

    async def _answer(self, text: str) -> acp.PromptResult:
        self._updates.begin()
        self._system = prompt.system_message(self._session.cwd)
        record = self._talk.turns.get(self.id)
        if record is not None and record.stop is not None:
            await self._say_again(record)
            return _result(record.stop, record)
        await self._box.ready(self._offers)
        if record is not None and record is self._talk.current:
            self._begun.set()
            await self._say_again(record)
            await self._close_calls(INTERRUPTED, but_repeatable=True)
        else:
            message = chat.user(text)
            self._refuse_oversized(message)
            await self._close_calls(INTERRUPTED, show=False)
            self._session.note(UserSaid(turn=self.id, message=msgspec.Raw(message)))
            self._begun.set()
        return await self._loop(self._record())

    async def _loop(self, record: TurnRecord) -> acp.PromptResult:
        while True:
            steered = bool(self._talk.waiting)
            match decide(record, self._settings.loop, steered=steered):
                case RunTools(calls):
                    for call in calls:
                        await self._run_tool(record.steps, call)
                case Repeat():
                    message = msgspec.Raw(record.users[0])
                    self._session.note(UserSaid(turn=self.id, message=message, again=True))
                case Ask():
                    if steered:
                        self._session.note(Steered(turn=self.id, count=len(self._talk.waiting)))
                    await self._step(record)
                case Finish(stop):
                    self._session.note(TurnEnded(turn=self.id, stop=stop))
                    return _result(stop, record)

    async def _step(self, record: TurnRecord) -> None:
        number = record.steps + 1
        loop, size = self._settings.loop, self._settings.max_context_size
        used = self._talk.tokens(len(self._system) + len(self._box.schemas))
        if compaction.is_due(used, loop.reserved_context_size, size):
            await self._compact(record)
        self._updates.step(number)
        try:
            reply = await self._ask()
        except ModelFailure as failure:
            if failure.code != "context_too_long" or not await self._compact(record):
                raise
            reply = await self._ask()
        family = request.family_of(self._settings.model)
        demand = family.demands_reasoning or self._settings.thinking
        message = chat.assistant(reply, demand_reasoning=demand)
        self._session.note(
            ModelSaid(
                turn=self.id,
                step=number,
                finish=reply.finish,
                message=msgspec.Raw(message),
                usage=reply.usage,
            )
        )
        self._partial.clear()
        await self._updates.usage(reply.usage, size)

    async def _ask(self) -> chat.Reply:
        self._partial.clear()
        body = request.build(
            model=self._settings.model,
            messages=[self._system, *self._talk.messages],
            tools=self._box.schemas,
            thinking=self._settings.thinking,
            cache_key=self._session.id,
        )
        return await self._model.ask(body, self)

    async def heard(self, delta: Delta) -> None:
        self._partial.append(delta.text)
        await self._updates.heard(delta)

    async def lost(self) -> None:
        self._partial.clear()
        await self._updates.lost()

    async def _run_tool(self, step: int, call: Call) -> None:
        id_ = tool_call_id(self.id, step, call.id)
        await self._updates.tool_started(id_, call, tools.kind_of(call.function.name))
        outcome = await self._box.run(call, self._room, f"{step}/{call.id}")
        self._note_result(call, outcome.text, failed=outcome.failed)
        await self._updates.tool_finished(id_, outcome.text, failed=outcome.failed)

    def _note_result(self, call: Call, text: str, *, failed: bool) -> None:
        current = self._talk.current
        assert current is not None
        message = msgspec.Raw(chat.tool_result(call.id, text))
        self._session.note(ToolSaid(turn=current.id, call=call.id, message=message, failed=failed))

    async def _close_calls(
        self, why: str, *, show: bool = True, but_repeatable: bool = False
    ) -> None:
        """Answer the calls that will never have a result: the API demands one for each.

        ``but_repeatable``: those that may be made again are left for it.
        """
        record = self._talk.current
        for call in self._talk.unanswered:
            if but_repeatable and self._box.repeats(call):
                continue
            self._note_result(call, why, failed=True)
            if show and record is not None:
                id_ = tool_call_id(record.id, record.steps, call.id)
                await self._updates.tool_finished(id_, why, failed=True)

    async def _say_again(self, record: TurnRecord) -> None:
        for step, text in record.texts:
            self._updates.step(step)
            await self._updates.text(text)

    async def _end_cancelled(self) -> acp.PromptResult:
        if not self._is_current():
            return _result("cancelled", None)
        record = self._record()
        partial = "".join(self._partial)
        if partial:  # people have seen it, so the model should know it said it
            reply = chat.Reply(partial, "", (), "cancelled", None)
            message = chat.assistant(reply, demand_reasoning=False)
            self._session.note(
                ModelSaid(
                    turn=self.id,
                    step=record.steps + 1,
                    finish="cancelled",
                    message=msgspec.Raw(message),
                )
            )
        await self._close_calls(CANCELLED)
        self._session.note(TurnEnded(turn=self.id, stop="cancelled"))
        return _result("cancelled", record)

    async def _compact(self, record: TurnRecord) -> bool:
        """Put a summary in the place of the conversation; false when there is nothing to sum up."""
        if not self._talk.can_compact(record):
            return False
        reply = await self._sum_up()
        summary = msgspec.Raw(compaction.summary_message(reply.text))
        count = len(self._talk.messages)
        self._session.note(Compacted(turn=self.id, message=summary, usage=reply.usage))
        note("context.compacted", session=self._session.id, messages=count)
        return True

    async def _sum_up(self) -> chat.Reply:
        size = self._settings.max_context_size
        while True:
            body = request.build(
                model=self._settings.model,
                messages=compaction.request_messages(self._talk.messages, size),
                tools=None,
                thinking=self._settings.thinking,
                cache_key=self._session.id,
            )
            try:
                return await self._model.ask(body, _Silent())
            except ModelFailure as failure:
                size //= 4  # the real window is smaller than the configured one
                if failure.code != "context_too_long" or size < MIN_SUMMARY_TOKENS:
                    raise

    def _refuse_oversized(self, message: bytes) -> None:
        """A message that alone fills the context must not enter it: all later turns would fail."""
        tokens = len(message) // 4  # the most generous guess: only the hopeless are refused here
        if tokens >= self._settings.max_context_size:
            raise ModelFailure(
                f"the message has about {tokens} tokens, "
                f"the model takes {self._settings.max_context_size}",
                code="context_too_long",
            )

    def _is_current(self) -> bool:
        current = self._talk.current
        return current is not None and current.id == self.id and current.stop is None

    def _record(self) -> TurnRecord:
        return self._talk.turns[self.id]


class _Silent:
    """Nobody needs to see a summary being written."""

    async def heard(self, delta: Delta) -> None:
        pass

    async def lost(self) -> None:
        pass


def _result(stop: acp.StopReason, record: TurnRecord | None) -> acp.PromptResult:
    heard = list(record.heard) if record is not None else []
    meta = {"nanokimi": {"heard": heard}}
    usage = record.usage if record is not None else None
    if usage is None:
        return acp.PromptResult(stop_reason=stop, meta=meta)
    given, said = usage.input_tokens or 0, usage.output_tokens or 0
    return acp.PromptResult(
        stop_reason=stop,
        meta=meta,
        usage=acp.Usage(
            total_tokens=given + said,
            input_tokens=given,
            output_tokens=said,
            thought_tokens=usage.reasoning_tokens,
            cached_read_tokens=usage.cached_tokens,
        ),
    )
