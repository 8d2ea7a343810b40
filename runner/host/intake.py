"""What comes in from people and schedules: checked, given a role, and on disk before we say so."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from runner.errors import BusyError, ConflictError, PermanentError
from runner.host import events
from runner.host.attachments import Staged
from runner.host.command_desk import CommandDesk
from runner.host.decide import wakes
from runner.host.dispatcher import Dispatcher
from runner.host.events import EventLog
from runner.host.people import People, check_group_id, check_person_id
from runner.host.scheduler import Circumstances
from runner.model import Event, Group, Message, Role, Task
from runner.settings.schema import Settings
from runner.store import Accepted, Store
from runner.store.task_desk import NewTask, Tasks

MAX_TEXT = 512 * 1024


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as a channel hands it over; ``direct`` chats need no trigger word.

    ``sender_id`` is the platform's id of the person. ``operator``: whoever runs this host says it.
    ``reply_to_agent``: it answers something that the agent has said. ``reply_url`` is where the
    answer is wanted.
    """

    group: str
    text: str
    channel: str
    sender: str = ""
    external_id: str | None = None
    direct: bool = False
    metadata: dict[str, Any] | None = None
    sender_id: str = ""
    operator: bool = False
    reply_to_agent: bool = False
    staged: Staged | None = None
    reply_url: str = ""

    @property
    def person(self) -> str:
        """Who sent it, for roles: without an id the name counts as one; empty for nobody."""
        return self.sender_id or self.sender.strip()


@dataclass(frozen=True, slots=True)
class Steered:
    """``joined``: the message is part of the running turn ``turn_id``; else of the one after it."""

    message_id: str
    turn_id: str
    joined: bool


class Intake:
    """Takes messages and tasks in.

    Args:
        here: the group, unless another host has it; see :meth:`runner.host.app.Host.steer`.
        keep: sees that the turn that wants the files which came for a group runs here.
    """

    def __init__(
        self,
        store: Store,
        log_: EventLog,
        settings: Callable[[], Settings],
        people: People,
        commands: CommandDesk,
        dispatcher: Dispatcher,
        tasks: Tasks,
        here: Callable[[str], Awaitable[Group]],
        keep: Callable[[str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._log = log_
        self._settings = settings
        self._people = people
        self._commands = commands
        self._dispatcher = dispatcher
        self._tasks = tasks
        self._here = here
        self._keep = keep
        self._shut: set[str] = set()
        self.closed = False  # the host is stopping

    @contextlib.contextmanager
    def shut(self, group_id: str) -> Iterator[None]:
        """Nothing comes in for this group inside the block: it is being deleted."""
        self._shut.add(group_id)
        try:
            yield
        finally:
            self._shut.discard(group_id)

    async def accept(self, incoming: Incoming) -> Accepted:
        """Take a message; when this returns it is on disk and will be answered once.

        Raises:
            PermanentError: ``empty_message``, ``message_too_long``, ``bad_group_id``,
                ``bad_member_id``, ``group_not_allowed`` or ``sender_blocked``.
            NotFoundError: the group does not exist and ``[host] auto_create`` is off.
            BusyError: the group's queue is full, or the host is stopping.
            OwnedElsewhereError: it has attachments, which the group's host does not see.
        """
        if self.closed:
            raise BusyError("the host is stopping", hint="try again soon", code="host_stopping")
        check_group_id(incoming.group)
        if incoming.group in self._shut:
            raise BusyError(
                "the group is being deleted", hint="try again soon", code="group_deleting"
            )
        if incoming.sender_id:
            check_person_id(incoming.sender_id)
        role = await self._people.admit(incoming.group, incoming.person, operator=incoming.operator)
        staged = incoming.staged or Staged(f"msg_{secrets.token_hex(12)}")
        if not incoming.text.strip() and not staged.attachments:
            raise PermanentError(
                "the message is empty", hint='send some "text"', code="empty_message"
            )
        if len(incoming.text) > MAX_TEXT:
            raise PermanentError(
                f"the message has {len(incoming.text)} characters, {MAX_TEXT} are allowed",
                hint="send it in parts, or put the text into a file of the workspace",
                code="message_too_long",
            )
        message = Message(
            id=staged.message_id,
            group=incoming.group,
            seq=0,
            text=incoming.text,
            sender=incoming.sender,
            external_id=incoming.external_id,
            wakes=wakes(
                incoming.text,
                self._settings().for_group(incoming.group).trigger,
                direct=incoming.direct or incoming.reply_to_agent,
            ),
            created_at=time.time(),
            metadata=incoming.metadata or {},
            channel=incoming.channel,
            sender_id=incoming.person,
            role=role,
            attachments=staged.attachments,
            reply_url=incoming.reply_url,
        )
        command = self._commands.read(incoming.group, incoming.text)
        if command is not None and not message.attachments:  # files are for the agent
            return await self._commands.accept(replace(message, wakes=True), command)
        if message.attachments:
            await self._keep(incoming.group)
        with self._log.writing(incoming.group) as event_id:
            event = Event(
                event_id,
                incoming.group,
                events.MESSAGE_ACCEPTED,
                {
                    "message_id": message.id,
                    "sender": message.sender,
                    "wakes": message.wakes,
                    "held": bool(self._dispatcher.held(incoming.group)),
                },
                message_ids=(message.id,),
            )
            accepted = await self._store.accept(message, self._settings().host.max_queue, event)
            if not accepted.duplicate:
                self._log.show(event)
        if not accepted.duplicate:
            self._dispatcher.arrived(accepted.message)
        return accepted

    async def add_task(self, group_id: str, new: NewTask, *, created_by: str = "") -> Task:
        """Have the group's agent do something at set times, for the person ``created_by``.

        Raises:
            PermanentError, NotFoundError, BusyError: as of a message that this person sends.
            ConflictError: the group has too many tasks.
        """
        check_group_id(group_id)
        if created_by:
            check_person_id(created_by)
        if group_id in self._shut:
            raise BusyError(
                "the group is being deleted", hint="try again soon", code="group_deleting"
            )
        await self._people.admit(group_id, created_by, operator=not created_by)
        return await self._tasks.add(group_id, new, created_by=created_by, make_group=True)

    async def circumstances_of(self, task: Task) -> Circumstances:
        """What counts for a due task: who it runs for is admitted, and has a role, as of now."""
        by = task.created_by
        try:
            role = await self._people.admit(task.group, by, operator=not by)
        except PermanentError:
            role = Role.BLOCKED
        else:
            role = role if by else Role.MEMBER
        return Circumstances(
            role, self._settings().host.max_queue, bool(self._dispatcher.held(task.group))
        )

    async def steer(self, incoming: Incoming) -> Steered:
        """Let a message join the running turn. When this returns it is on disk, and either part of
        that turn or, when the turn ended just now, of the next one.

        Raises:
            ConflictError: nothing runs, or the engine cannot take more into a turn.
            NotFoundError, PermanentError, BusyError: see :meth:`accept`.
        """
        await self._here(incoming.group)
        turn = self._dispatcher.running(incoming.group)
        if turn is None:
            raise ConflictError(
                "nothing is running in this group",
                hint="send a message instead",
                code="nothing_running",
            )
        if not self._dispatcher.joinable(incoming.group):
            raise ConflictError(
                "the running turn takes no more messages now",
                hint="send a message instead: the next turn has it",
                code="not_steerable",
            )
        mark = self._log.mark()
        accepted = await self.accept(replace(incoming, direct=True))
        message = accepted.message.id
        if accepted.duplicate or accepted.command:
            known = accepted.message
            return Steered(message, known.turn_id or turn.id, joined=known.steered)
        async with contextlib.aclosing(self._log.follow(incoming.group, mark)) as log_:
            async for event in log_:
                if event.kind == events.TURN_STEERED and message in event.message_ids:
                    return Steered(message, str(event.turn_id), joined=True)
                if event.turn_id == turn.id and events.ends_turn(event):
                    break
        return Steered(message, turn.id, joined=False)
