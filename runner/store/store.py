"""Every transaction: each public method is one, made of the functions that own the queries.

Blocking database work runs in threads of its own, so the event loop never waits for a disk. What
writes goes through the one :class:`~runner.store.writer.Writer`, and has returned when it is on
disk; what only reads goes beside it, and sees all that has returned.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError

from runner.model import Event, Group, Message, Turn
from runner.store import event_log, groups, queue
from runner.store import schema as t
from runner.store.database import READERS, Place, explain, open_engine
from runner.store.hosts import Elsewhere
from runner.store.queue import Accepted, Claim
from runner.store.sqlite import READS
from runner.store.upgrade import prepare
from runner.store.writer import Writer

_T = TypeVar("_T")


class Store:
    """Open with :meth:`open`; close with :meth:`close`.

    Every method raises :class:`~runner.errors.TemporaryError` when the database is locked, full or
    cannot be reached or written (codes ``store_locked``, ``disk_full``, ``store_unavailable``,
    ``store_read_only``), or too much waits for it (``store_busy``).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reading = engine.execution_options(**{READS: True})
        self._writer = Writer(engine)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    @classmethod
    async def open(cls, place: Place) -> Store:
        """Open a SQLite file, made with mode 0600 when it is missing, or the database of a URL.

        Raises:
            ConfigError: a URL that names no database, or one without its driver.
            PermanentError: not a database, or of a newer version of nanokimi.
            TemporaryError: it cannot be reached, or not be written.
        """
        store = cls(open_engine(place))
        try:
            await store.transact(prepare)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Finish what waits to be written."""
        await self._writer.close()
        self._readers.shutdown(wait=False)
        await asyncio.to_thread(self._engine.dispose)

    async def transact(self, work: Callable[[Connection], _T], group: str = "") -> _T:
        """One transaction, on disk when this returns.

        ``work`` has no effects but those on the database: it may run again from its beginning.
        ``group`` is the one that it locks, if it does.
        """
        return await self._writer.do(work, group)

    async def read(self, work: Callable[[Connection], _T]) -> _T:
        """A look at the data, beside the writer: it holds up no message."""

        def run() -> _T:
            try:
                with self._reading.begin() as c:
                    return work(c)
            except DBAPIError as e:
                raise explain(e, self._engine.url) from None

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    # -- meta -----------------------------------------------------------------------------------

    async def install_id(self) -> str:
        """The name of this installation on a shared engine, made once: 10 hex digits."""

        def work(c: Connection) -> str:
            made = {"key": "install_id", "value": secrets.token_hex(5)}
            groups.insert_new(c, t.meta, made)  # another host may be first
            return str(c.scalar(select(t.meta.c.value).where(t.meta.c.key == "install_id")))

        return await self.transact(work)

    # -- groups ---------------------------------------------------------------------------------

    async def groups(self) -> list[Group]:
        """All groups, oldest first."""
        return await self.read(groups.find_all)

    async def group(self, group_id: str) -> Group:
        """Raises: NotFoundError."""
        return await self.read(lambda c: groups.need(c, group_id))

    async def put_group(self, group_id: str) -> Group:
        """The group, made when it is new."""
        return await self.transact(lambda c: groups.put(c, group_id))

    async def register_group(self, group_id: str) -> Group:
        """The group, made when it is new, as one that is served whatever the allowlist says."""
        return await self.transact(lambda c: groups.register(c, group_id))

    async def next_generation(self, group_id: str, host: str) -> int:
        """Count up and return the group's sandbox generation: the fence for everything later.

        Raises:
            OwnedElsewhereError: the group is not this host's any more.
        """
        return await self.transact(lambda c: groups.next_generation(c, group_id, host), group_id)

    async def set_session(
        self, group_id: str, session_id: str, generation: int, name: str = ""
    ) -> None:
        """Remember the agent's session of the conversation ``name``, empty for the group's own.

        Ignored when the writer's generation is stale.
        """
        await self.transact(
            lambda c: groups.set_session(c, group_id, session_id, generation, name), group_id
        )

    async def reset_group(self, group_id: str) -> None:
        """Forget the conversation: the next turn starts a new session. Raises: NotFoundError."""
        await self.transact(lambda c: groups.forget_sessions(c, group_id))

    async def delete_group(self, group_id: str) -> None:
        """Remove the group and all that belongs to it. Raises: NotFoundError."""
        await self.transact(lambda c: groups.remove(c, group_id))

    # -- messages -------------------------------------------------------------------------------

    async def accept(self, message: Message, max_queue: int, log: Event) -> Accepted:
        """Write a message and its ``message.accepted`` event.

        Context is bounded by dropping the oldest of it, and never keeps a question out.

        Raises:
            BusyError: ``max_queue`` messages of the group wait for an answer already.
        """
        return await self.transact(
            lambda c: queue.accept(c, message, max_queue, log), message.group
        )

    async def messages(self, group_id: str, *, after: int = 0, limit: int = 100) -> list[Message]:
        """Messages with ``seq > after`` in order of acceptance. Raises: NotFoundError."""
        return await self.read(lambda c: queue.page(c, group_id, after, limit))

    async def message(self, message_id: str) -> Message:
        """Raises: NotFoundError."""
        return await self.read(lambda c: queue.message(c, message_id))

    async def count_waiting(self, group_id: str) -> int:
        """Messages of the group that no turn has taken yet."""
        return await self.read(lambda c: queue.count_waiting(c, group_id))

    async def count_unanswered(self) -> int:
        """Messages of all groups that ask for an answer and do not have it yet."""
        return await self.read(queue.count_unanswered)

    # -- turns ----------------------------------------------------------------------------------

    async def groups_with_work(self, host: str) -> list[str]:
        """Groups that ``host`` may work for, with a running turn or a message that wakes."""
        return await self.read(lambda c: queue.groups_with_work(c, host))

    async def has_work(self, group_id: str) -> bool:
        """Has the group a turn that runs, or a message that wakes the agent?"""
        return await self.read(lambda c: queue.has_work(c, group_id))

    async def claim(self, group_id: str, host: str, event_id: int) -> Claim | Elsewhere | None:
        """Take the group's unfinished turn with a new attempt, or make one of what waits.

        The group becomes ``host``'s, unless another living one has it.

        A turn needs at least one message that wakes the agent; what was said before it goes along
        as context, and what came after it too, as far as one prompt holds. Its ``turn.started``
        event is written with it.
        """
        return await self.transact(lambda c: queue.claim(c, group_id, host, event_id), group_id)

    async def finish(
        self, turn: Turn, log: Event, webhook: str = "", heard: Collection[str] = ()
    ) -> Event | None:
        """Write a turn's end, its messages' end, and the event and delivery that tell it, at once.

        ``turn`` carries the new state, text, error and usage; ``webhook`` is where the answer goes
        when no message of the group has said. ``heard`` are the messages that joined the turn and
        reached the agent; others that joined wait again, and the event says so.

        Returns:
            The event as it was written; ``None``, and nothing is written, when a later attempt has
            taken over or the turn has ended already.
        """
        return await self.transact(lambda c: queue.finish(c, turn, log, webhook, heard), turn.group)

    async def turn(self, turn_id: str) -> Turn:
        """Raises: NotFoundError."""
        return await self.read(lambda c: queue.turn(c, turn_id))

    # -- events ---------------------------------------------------------------------------------

    async def append_events(self, new: Sequence[Event]) -> None:
        """Write events that belong to no other transaction, but for those of deleted groups."""
        await self.transact(lambda c: event_log.append_living(c, new))

    async def events_after(self, group_id: str, after: int, limit: int = 1000) -> list[Event]:
        """Events of the group with ``id > after``, oldest first."""
        return await self.read(lambda c: event_log.after(c, group_id, after, limit))

    async def last_event_id(self) -> int:
        """The highest event id on disk, 0 when there is none."""
        return await self.read(event_log.last_id)
