"""Carries out chat commands, beside the agent's turns and without a sandbox.

A command is on disk, with a running turn of its own, before anything is done; what it changes in
the store changes in the transaction that writes its answer. A host that dies in between finds it
at its next start and carries it out again, which does no harm: a stop means one certain turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from runner.errors import BusyError, NanokimiError, NotFoundError
from runner.gateway.budgets import Window, start_of
from runner.host import command_words as words
from runner.host import events
from runner.host.commands import DEFAULT, Command, Name, parse, refusal
from runner.host.events import EventLog, Lagging
from runner.host.people import People
from runner.host.progress import finished_json
from runner.host.trouble import Trouble
from runner.model import Event, Message, Role, Turn, TurnKind, TurnState
from runner.settings.group import models_for
from runner.settings.schema import Settings
from runner.store import Accepted, Store, command_turns
from runner.store.books import Books
from runner.store.command_turns import Choose, Effect, Forget, Order
from runner.store.ledger import Ledger, Span
from runner.store.overview import Overview, asked_for, overview

log = structlog.get_logger()

DEADLINE = 60.0
END_DEADLINE = 20.0
STORE_RETRY = 2.0
MAX_AT_ONCE = 1_000
STRAY = 5.0
"""Seconds after which a command that another host took, and did not end, is ours to do."""


class Workshop(Protocol):
    """What commands act on: the running host."""

    @property
    def settings(self) -> Settings: ...

    def held_for(self, group_id: str) -> str:
        """The code of the failure for which its messages wait; empty when they do not."""
        ...

    def sandbox_state(self, group_id: str) -> str:
        """``none``, or what the group's sandbox is doing."""
        ...

    def choose_model(self, group_id: str, alias: str) -> None:
        """Have the group's next turn answered by this model."""
        ...

    async def cancel(self, group_id: str, turn_id: str | None = None) -> Turn | None:
        """Have this turn end as cancelled; ``None`` when it does not run here."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """``text`` is told to the chat; ``effect`` is written with it."""

    text: str
    effect: Effect = None


class CommandDesk:
    """See the module. :meth:`run` owns every task."""

    def __init__(
        self,
        store: Store,
        host: str,
        log_: EventLog,
        people: People,
        books: Books,
        workshop: Workshop,
        others: Callable[[], bool],
    ) -> None:
        self._store = store
        self._host = host
        self._log = log_
        self._people = people
        self._books = books
        self._ledger = Ledger(store)
        self._workshop = workshop
        self._others = others
        self._new: asyncio.Queue[tuple[Turn, Message]] = asyncio.Queue()
        self._doing: set[str] = set()

    # -- taking them ----------------------------------------------------------------------------

    def read(self, group_id: str, text: str) -> Command | None:
        """The command that this text is in this group; ``None`` when it is for the agent."""
        of_group = self._workshop.settings.for_group(group_id)
        return parse(text, of_group.trigger, admin_group=of_group.admin)

    async def accept(self, message: Message, command: Command) -> Accepted:
        """Take a command; when this returns it is on disk and will be answered once.

        Raises:
            BusyError: too many commands, of the group or of all, are under way.
        """
        if len(self._doing) >= MAX_AT_ONCE:
            raise BusyError(
                f"{MAX_AT_ONCE} commands are under way already",
                hint="try again soon",
                retry_after=5.0,
            )
        group = message.group
        turn = Turn(
            id=f"turn_{secrets.token_hex(12)}",
            group=group,
            state=TurnState.RUNNING,
            attempt=1,
            started_at=time.time(),
            kind=TurnKind.COMMAND,
        )
        order = Order(command.name, command.target or group, command.argument)
        with self._log.writing(group) as first, self._log.writing(group) as second:
            ids = (message.id,)
            told = {
                "message_id": message.id,
                "sender": message.sender,
                "wakes": True,
                "held": False,
                "command": str(command.name),
            }
            accepted = Event(first, group, events.MESSAGE_ACCEPTED, told, message_ids=ids)
            data = {
                "turn_id": turn.id,
                "attempt": 1,
                "message_ids": [message.id],
                "command": str(command.name),
            }
            started = Event(second, group, events.TURN_STARTED, data, turn.id, ids)
            issued = await self._store.transact(
                lambda c: command_turns.issue(c, message, order, turn, accepted, started), group
            )
            if issued.turn is not None:
                self._log.show(accepted)
                self._log.show(started)
        if issued.turn is not None:
            await self._begin(issued.turn, issued.accepted.message)
        return issued.accepted

    async def _begin(self, turn: Turn, message: Message) -> None:
        target = Order.read(turn).target
        if not self._others() or await self._store.read(
            lambda c: command_turns.may_run(c, target, self._host)
        ):
            self._doing.add(turn.id)
            self._new.put_nowait((turn, message))

    async def run(self) -> None:
        """Carry out what is taken, and what a host that ended has left, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look(), name="look for commands")
            while True:
                turn, message = await self._new.get()
                tasks.create_task(self._carry_out(turn, message), name=f"command {turn.id}")

    async def _look(self) -> None:
        trouble = Trouble("commands.not_looked_for")
        first = True
        while True:
            try:
                await self._take_over(0.0 if first else STRAY)
                first = False
                trouble.over()
            except NanokimiError as e:
                trouble.met(e)
            await asyncio.sleep(1.0 if self._others() else 15.0)

    async def _take_over(self, older_than: float) -> None:
        found = await self._store.read(lambda c: command_turns.unfinished(c, self._host))
        for turn, mine in found:
            old = time.time() - turn.started_at >= older_than
            if turn.id in self._doing or not (mine or old):
                continue
            taken = await self._store.transact(functools.partial(command_turns.take, turn=turn))
            if taken is not None:
                self._doing.add(turn.id)
                self._new.put_nowait(taken)

    # -- carrying them out ----------------------------------------------------------------------

    async def _carry_out(self, turn: Turn, message: Message) -> None:
        order = Order.read(turn)
        try:
            reply = await self._reply(order, message)
            while True:
                if await self._answer(turn, order, reply):
                    return
                await asyncio.sleep(STORE_RETRY)
        finally:
            self._doing.discard(turn.id)

    async def _reply(self, order: Order, message: Message) -> Reply:
        """The answer, whatever happens."""
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._do(order, message)
        except TimeoutError:
            return Reply(f"/{order.name} took too long and was given up; try it again.")
        except NanokimiError as e:
            log.warning("command.failed", group=message.group, command=order.name, code=e.code)
            return Reply(f"That did not work: {e.message}.")
        except Exception:
            log.exception("command.bug", group=message.group, command=order.name)
            return Reply("That did not work: an internal error; the log of the host has more.")

    async def _answer(self, turn: Turn, order: Order, reply: Reply) -> bool:
        """Write the answer and its effect; False: the store cannot be written now."""
        ended = replace(turn, state=TurnState.DONE, text=reply.text, finished_at=time.time())
        webhook = self._workshop.settings.for_group(turn.group).webhook
        try:
            group, writing = turn.group, self._log.writing
            with writing(group) as first, writing(group) as second:
                said = {"turn_id": turn.id, "text": reply.text}
                delta = Event(first, group, events.TEXT_DELTA, said, turn.id)
                data = {**finished_json(ended, None), "command": order.name}
                event = Event(second, group, events.TURN_FINISHED, data, turn.id)
                if await self._store.transact(
                    lambda c: command_turns.finish(c, ended, event, webhook, reply.effect),
                    group,
                ):
                    self._log.show(delta)  # a client that prints deltas prints this answer too
                    self._log.show(event)
                    if isinstance(reply.effect, Choose):
                        self._workshop.choose_model(reply.effect.group, reply.effect.alias)
                    log.info("command.done", group=group, command=order.name, turn=turn.id)
        except NotFoundError:
            return True  # the group went with its turn
        except NanokimiError as e:
            log.error("command.not_written", group=turn.group, code=e.code, error=e.message)
            return False
        return True

    async def _do(self, order: Order, message: Message) -> Reply:
        command = Command(
            Name(order.name), "" if order.target == message.group else order.target, order.argument
        )
        if command.target:
            self._people.check_may_manage(message.group, command.target)
        if why := refusal(command, message.role):
            return Reply(why)
        match command.name:
            case Name.HELP:
                return self._help(message)
            case Name.STATUS:
                return await self._status(order)
            case Name.STOP:
                return await self._stop(order, message)
            case Name.RESET:
                return await self._reset(order)
            case Name.MODEL:
                return await self._model(order)
            case Name.USAGE:
                return await self._usage(order)

    def _help(self, message: Message) -> Reply:
        of_group = self._workshop.settings.for_group(message.group)
        text = words.help_text(message.role, of_group.trigger, admin_group=of_group.admin)
        return Reply(text)

    async def _status(self, order: Order) -> Reply:
        found = await self._overview(order)
        group = order.target
        text = words.status_text(
            found,
            held_for=self._workshop.held_for(group),
            model=self._model_in_use(found),
            sandbox=self._workshop.sandbox_state(group),
            now=time.time(),
        )
        return Reply(text)

    async def _stop(self, order: Order, message: Message) -> Reply:
        waiting = words.waiting_text((await self._overview(order)).waiting)
        if not order.running_turn:
            return Reply(f"Nothing is running.{waiting}")
        asked = await self._store.read(
            lambda c: asked_for(c, order.running_turn, message.sender_id)
        )
        if not (asked or message.role.covers(Role.ADMIN)):
            return Reply("Only who asked for this work, or an admin, may stop it.")
        if await self._end_turn(order.target, order.running_turn):
            return Reply(f"Stopped.{waiting}")
        return Reply(f"Stopping; it takes a moment.{waiting}")

    async def _reset(self, order: Order) -> Reply:
        await self._overview(order)
        if order.running_turn:
            await self._end_turn(order.target, order.running_turn)
        # Its sandbox is of an older generation then, and goes before the next turn.
        return Reply(
            "Forgotten: the next message begins a new conversation. Files are still there.",
            Forget(order.target),
        )

    async def _model(self, order: Order) -> Reply:
        found = await self._overview(order)
        now = self._model_in_use(found)
        if not order.argument:
            return Reply(words.models_text(now))
        alias = "" if order.argument.lower() == DEFAULT else order.argument
        if alias and alias not in now.offered:
            return Reply(words.no_model_text(alias, now))
        group = replace(found.group, model=alias)
        line = words.model_line(self._model_in_use(replace(found, group=group)))
        return Reply(
            f"{line} It holds from the next answer on.",
            Choose(order.target, alias),
        )

    async def _usage(self, order: Order) -> Reply:
        await self._overview(order)
        await self._books.flush()
        now = time.time()
        today, month = [
            await self._ledger.total(Span(start_of(window, now), group=order.target))
            for window in (Window.DAY, Window.MONTH)
        ]
        return Reply(words.usage_text(today, month, now))

    async def _end_turn(self, group: str, turn_id: str) -> bool:
        """Cancel a turn and wait for its end; False: it has not come in time."""
        listening = self._log.subscribe(group)
        try:
            if await self._workshop.cancel(group, turn_id) is None:
                return await self._end_idle(turn_id)
            with contextlib.suppress(TimeoutError, Lagging):
                async with asyncio.timeout(END_DEADLINE):
                    async for event in listening:
                        if event.turn_id == turn_id and events.ends_turn(event):
                            return True
        finally:
            self._log.unsubscribe(group, listening)
        return (await self._store.turn(turn_id)).state is not TurnState.RUNNING

    async def _end_idle(self, turn_id: str) -> bool:
        """End a turn that nobody works on: an earlier host has left it."""
        turn = await self._store.turn(turn_id)
        if turn.state is not TurnState.RUNNING:
            return True
        ended = replace(turn, state=TurnState.CANCELLED, finished_at=time.time())
        webhook = self._workshop.settings.for_group(turn.group).webhook
        with self._log.writing(turn.group) as event_id:
            data = finished_json(ended, "cancelled")
            event = Event(event_id, turn.group, events.TURN_FINISHED, data, turn.id)
            written = await self._store.finish(ended, event, webhook)
            if written is not None:
                self._log.show(written)
        if written is None:  # it was taken up just now
            await self._workshop.cancel(turn.group, turn_id)
        return written is not None

    async def _overview(self, order: Order) -> Overview:
        return await self._store.read(lambda c: overview(c, order.target))

    def _model_in_use(self, found: Overview) -> words.ModelInUse:
        settings, group = self._workshop.settings, found.group
        offered = models_for(settings, group.id)
        return words.ModelInUse(
            alias=settings.for_group(group.id, group.model).alias,
            chosen=group.model in offered,
            asked=group.model,
            offered=offered,
        )
