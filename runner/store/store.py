"""Every query, and nothing else: each public method is one transaction.

Blocking database work runs in one thread of its own, so the event loop never waits for a disk and
SQLite sees one writer. A method returns when its transaction is on disk.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    RowMapping,
    Select,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DatabaseError, IntegrityError

from runner.errors import BusyError, NotFoundError
from runner.model import (
    MESSAGE_MOVES,
    TURN_MOVES,
    Event,
    Group,
    Message,
    MessageState,
    Turn,
    TurnState,
    advance,
    folder_of,
)
from runner.store import schema as t
from runner.store.database import READS, explain, open_sqlite, prepare
from runner.store.rows import event_of, group_of, message_of, turn_of

_T = TypeVar("_T")

MAX_MESSAGES_PER_TURN = 50
MAX_CHARS_PER_TURN = 512 * 1024
MAX_CONTEXT = 200
KEPT_EVENTS_PER_GROUP = 5_000

# Where a turn's end leaves its messages.
_AFTER_TURN = {
    TurnState.DONE: MessageState.ANSWERED,
    TurnState.FAILED: MessageState.FAILED,
    TurnState.CANCELLED: MessageState.DROPPED,
}


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that is on disk; ``duplicate`` when its external id was known already."""

    message: Message
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A turn to run now, and the event that says so.

    ``turn.attempt`` is its fence: only the newest attempt may finish it.
    """

    turn: Turn
    messages: tuple[Message, ...]
    event: Event


class Store:
    """Open with :meth:`open`; close with :meth:`close`.

    Every method raises :class:`~runner.errors.TemporaryError` when the database is locked, full or
    cannot be written (codes ``store_locked``, ``disk_full``, ``store_unavailable``).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-reader")

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Open the SQLite file, made with mode 0600 when it is missing.

        Raises:
            PermanentError: not a database, or of a newer version of nanokimi.
        """
        store = cls(open_sqlite(path))
        try:
            await store._do(prepare)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        self._reader.shutdown(wait=False)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown(wait=False)

    async def transact(self, work: Callable[[Connection], _T]) -> _T:
        """One transaction of another owner of queries, in line with those of this one."""
        return await self._do(work)

    async def read(self, work: Callable[[Connection], _T]) -> _T:
        """A long look at the data, beside the writer: it holds up no message."""
        return await self._run(self._reader, work, reads=True)

    async def _do(self, work: Callable[[Connection], _T]) -> _T:
        return await self._run(self._thread, work)

    async def _run(
        self, thread: ThreadPoolExecutor, work: Callable[[Connection], _T], *, reads: bool = False
    ) -> _T:
        def run() -> _T:
            try:
                with (
                    self._engine.connect().execution_options(**{READS: reads}) as c,
                    c.begin(),
                ):
                    return work(c)
            except IntegrityError:
                raise  # a bug of ours, never the operator's
            except DatabaseError as e:
                raise explain(e) from None

        return await asyncio.get_running_loop().run_in_executor(thread, run)

    # -- meta -----------------------------------------------------------------------------------

    async def install_id(self) -> str:
        """The name of this installation on a shared engine, made once: 10 hex digits."""

        def work(c: Connection) -> str:
            query = select(t.meta.c.value).where(t.meta.c.key == "install_id")
            if found := c.scalar(query):
                return str(found)
            made = secrets.token_hex(5)
            c.execute(insert(t.meta).values(key="install_id", value=made))
            return made

        return await self._do(work)

    # -- groups ---------------------------------------------------------------------------------

    async def groups(self) -> list[Group]:
        """All groups, oldest first."""
        query = select(t.groups).order_by(t.groups.c.created_at, t.groups.c.id)
        return await self._do(lambda c: [group_of(r) for r in c.execute(query).mappings()])

    async def group(self, group_id: str) -> Group:
        """Raises: NotFoundError."""
        return await self._do(lambda c: _need_group(c, group_id))

    async def put_group(self, group_id: str) -> Group:
        """The group, made when it is new."""
        return await self._do(lambda c: _put_group(c, group_id))

    async def next_generation(self, group_id: str) -> int:
        """Count up and return the group's sandbox generation: the fence for everything later."""

        def work(c: Connection) -> int:
            c.execute(
                update(t.groups)
                .where(t.groups.c.id == group_id)
                .values(generation=t.groups.c.generation + 1)
            )
            return _need_group(c, group_id).generation

        return await self._do(work)

    async def set_session(self, group_id: str, session_id: str, generation: int) -> None:
        """Remember the agent's session; ignored when the writer's generation is stale."""
        await self._do(
            lambda c: c.execute(
                update(t.groups)
                .where(t.groups.c.id == group_id, t.groups.c.generation == generation)
                .values(session_id=session_id)
            )
        )

    async def reset_group(self, group_id: str) -> None:
        """Forget the conversation: the next turn starts a new session. Raises: NotFoundError."""

        def work(c: Connection) -> None:
            _need_group(c, group_id)
            c.execute(
                update(t.groups)
                .where(t.groups.c.id == group_id)
                .values(session_id="", generation=t.groups.c.generation + 1)
            )

        await self._do(work)

    async def delete_group(self, group_id: str) -> None:
        """Remove the group and all that belongs to it. Raises: NotFoundError."""

        def work(c: Connection) -> None:
            _need_group(c, group_id)
            for table in (t.messages, t.turns, t.events):
                c.execute(delete(table).where(table.c.group_id == group_id))
            c.execute(delete(t.groups).where(t.groups.c.id == group_id))

        await self._do(work)

    # -- messages -------------------------------------------------------------------------------

    async def accept(self, message: Message, channel: str, max_queue: int, log: Event) -> Accepted:
        """Write a message and its ``message.accepted`` event.

        Context is bounded by dropping the oldest of it, and never keeps a question out.

        Raises:
            BusyError: ``max_queue`` messages of the group wait for an answer already.
        """

        def work(c: Connection) -> Accepted:
            if message.external_id is not None and (
                row := _by_external_id(c, message.group, channel, message.external_id)
            ):
                return Accepted(message_of(row), duplicate=True)
            _put_group(c, message.group)
            if message.wakes:
                _refuse_over(c, message.group, max_queue)
            else:
                _drop_context(c, message.group, MAX_CONTEXT - 1)
            done = c.execute(
                insert(t.messages).values(
                    id=message.id,
                    group_id=message.group,
                    channel=channel,
                    external_id=message.external_id,
                    sender=message.sender,
                    text=message.text,
                    wakes=message.wakes,
                    state=MessageState.QUEUED,
                    metadata=message.metadata,
                    created_at=message.created_at,
                )
            )
            _log(c, [log])
            key = done.inserted_primary_key
            return Accepted(replace(message, seq=int(key[0]) if key else 0), duplicate=False)

        return await self._do(work)

    async def messages(self, group_id: str, *, after: int = 0, limit: int = 100) -> list[Message]:
        """Messages with ``seq > after`` in order of acceptance. Raises: NotFoundError."""

        def work(c: Connection) -> list[Message]:
            _need_group(c, group_id)
            query = (
                select(t.messages)
                .where(t.messages.c.group_id == group_id, t.messages.c.seq > after)
                .order_by(t.messages.c.seq)
                .limit(limit)
            )
            return [message_of(r) for r in c.execute(query).mappings()]

        return await self._do(work)

    async def message(self, message_id: str) -> Message:
        """Raises: NotFoundError."""

        def work(c: Connection) -> Message:
            row = (
                c.execute(select(t.messages).where(t.messages.c.id == message_id))
                .mappings()
                .first()
            )
            if row is None:
                raise NotFoundError(f"there is no message {message_id!r}")
            return message_of(row)

        return await self._do(work)

    async def count_waiting(self, group_id: str) -> int:
        """Messages of the group that no turn has taken yet."""
        query = (
            select(func.count())
            .select_from(t.messages)
            .where(t.messages.c.group_id == group_id, t.messages.c.state == MessageState.QUEUED)
        )
        return await self._do(lambda c: c.scalar(query) or 0)

    async def count_unanswered(self) -> int:
        """Messages of all groups that ask for an answer and do not have it yet."""
        open_states = (MessageState.QUEUED, MessageState.CLAIMED)
        query = (
            select(func.count())
            .select_from(t.messages)
            .where(t.messages.c.state.in_(open_states), t.messages.c.wakes)
        )
        return await self._do(lambda c: c.scalar(query) or 0)

    # -- turns ----------------------------------------------------------------------------------

    async def groups_with_work(self) -> list[str]:
        """Groups with a running turn (of a host that ended) or a message that wakes the agent."""

        def work(c: Connection) -> list[str]:
            running = select(t.turns.c.group_id, t.turns.c.started_at.label("at")).where(
                t.turns.c.state == TurnState.RUNNING
            )
            queued = select(t.messages.c.group_id, t.messages.c.created_at.label("at")).where(
                t.messages.c.state == MessageState.QUEUED, t.messages.c.wakes
            )
            both = running.union_all(queued).subquery()
            query = select(both.c.group_id).group_by(both.c.group_id).order_by(func.min(both.c.at))
            return [str(r) for r in c.scalars(query)]

        return await self._do(work)

    async def claim(self, group_id: str, event_id: int) -> Claim | None:
        """Take the group's unfinished turn with a new attempt, or make one of what waits.

        A turn needs at least one message that wakes the agent; what was said before it goes along
        as context, and what came after it too, as far as one prompt holds. Its ``turn.started``
        event is written with it.
        """

        def work(c: Connection) -> Claim | None:
            if found := _unfinished(c, group_id):
                row, taken = found
                turn = replace(turn_of(row), attempt=row["attempt"] + 1)
                c.execute(
                    update(t.turns).where(t.turns.c.id == turn.id).values(attempt=turn.attempt)
                )
                return Claim(turn, taken, _log_start(c, turn, taken, event_id))
            waiting = _next_batch(c, group_id)
            if not waiting:
                return None
            turn = Turn(
                id=f"turn_{secrets.token_hex(12)}",
                group=group_id,
                state=TurnState.RUNNING,
                attempt=1,
                started_at=time.time(),
            )
            c.execute(
                insert(t.turns).values(
                    id=turn.id,
                    group_id=group_id,
                    state=turn.state,
                    attempt=1,
                    started_at=turn.started_at,
                )
            )
            claimed = tuple(
                replace(
                    m,
                    state=advance(MESSAGE_MOVES, m.state, MessageState.CLAIMED),
                    turn_id=turn.id,
                )
                for m in waiting
            )
            c.execute(
                update(t.messages)
                .where(t.messages.c.id.in_([m.id for m in claimed]))
                .values(state=MessageState.CLAIMED, turn_id=turn.id)
            )
            return Claim(turn, claimed, _log_start(c, turn, claimed, event_id))

        return await self._do(work)

    async def finish(self, turn: Turn, log: Event) -> bool:
        """Write a turn's end, its messages' end and the event that tells it, at once.

        ``turn`` carries the new state, text, error and usage. False, and nothing written, when a
        later attempt has taken over or the turn has ended already.
        """

        def work(c: Connection) -> bool:
            if not _holds(c, turn):
                return False
            advance(TURN_MOVES, TurnState.RUNNING, turn.state)
            c.execute(
                update(t.turns)
                .where(t.turns.c.id == turn.id)
                .values(
                    state=turn.state,
                    generation=turn.generation,
                    text=turn.text,
                    error=turn.error,
                    usage=asdict(turn.usage) if turn.usage else None,
                    finished_at=turn.finished_at,
                )
            )
            after = advance(MESSAGE_MOVES, MessageState.CLAIMED, _AFTER_TURN[turn.state])
            c.execute(
                update(t.messages)
                .where(t.messages.c.turn_id == turn.id, t.messages.c.state == MessageState.CLAIMED)
                .values(state=after)
            )
            _log(c, [log])
            _prune_events(c, turn.group)
            return True

        return await self._do(work)

    async def turn(self, turn_id: str) -> Turn:
        """Raises: NotFoundError."""

        def work(c: Connection) -> Turn:
            row = c.execute(select(t.turns).where(t.turns.c.id == turn_id)).mappings().first()
            if row is None:
                raise NotFoundError(f"there is no turn {turn_id!r}")
            return turn_of(row)

        return await self._do(work)

    # -- events ---------------------------------------------------------------------------------

    async def append_events(self, new: Sequence[Event]) -> None:
        """Write events that belong to no other transaction, but for those of deleted groups."""

        def work(c: Connection) -> None:
            known = select(t.groups.c.id).where(t.groups.c.id.in_({e.group for e in new}))
            living = set(c.scalars(known))
            _log(c, [e for e in new if e.group in living])

        await self._do(work)

    async def events_after(self, group_id: str, after: int, limit: int = 1000) -> list[Event]:
        """Events of the group with ``id > after``, oldest first."""
        query = (
            select(t.events)
            .where(t.events.c.group_id == group_id, t.events.c.id > after)
            .order_by(t.events.c.id)
            .limit(limit)
        )
        return await self._do(lambda c: [event_of(r) for r in c.execute(query).mappings()])

    async def last_event_id(self) -> int:
        """The highest event id on disk, 0 when there is none."""
        return await self._do(lambda c: c.scalar(select(func.max(t.events.c.id))) or 0)


# -- pieces of transactions ---------------------------------------------------------------------


def _put_group(c: Connection, group_id: str) -> Group:
    row = c.execute(select(t.groups).where(t.groups.c.id == group_id)).mappings().first()
    if row is not None:
        return group_of(row)
    group = Group(group_id, folder_of(group_id), created_at=time.time())
    c.execute(
        insert(t.groups).values(id=group.id, folder=group.folder, created_at=group.created_at)
    )
    return group


def _need_group(c: Connection, group_id: str) -> Group:
    row = c.execute(select(t.groups).where(t.groups.c.id == group_id)).mappings().first()
    if row is None:
        raise NotFoundError(
            f"there is no group {group_id!r}",
            hint="`nanokimi groups list` shows them; a group is made by its first message",
        )
    return group_of(row)


def _by_external_id(
    c: Connection, group_id: str, channel: str, external_id: str
) -> RowMapping | None:
    query = select(t.messages).where(
        t.messages.c.group_id == group_id,
        t.messages.c.channel == channel,
        t.messages.c.external_id == external_id,
    )
    return c.execute(query).mappings().first()


def _refuse_over(c: Connection, group_id: str, max_queue: int) -> None:
    waiting = c.scalar(
        select(func.count())
        .select_from(t.messages)
        .where(
            t.messages.c.group_id == group_id,
            t.messages.c.state == MessageState.QUEUED,
            t.messages.c.wakes,
        )
    )
    if (waiting or 0) >= max_queue:
        raise BusyError(
            f"{waiting} messages of this group are waiting already",
            hint="wait for answers, or raise [host] max_queue",
            retry_after=5.0,
        )


def _drop_context(c: Connection, group_id: str, keep: int) -> None:
    """Keep the newest ``keep`` messages that wait as context."""
    oldest = (
        select(t.messages.c.id)
        .where(
            t.messages.c.group_id == group_id,
            t.messages.c.state == MessageState.QUEUED,
            ~t.messages.c.wakes,
        )
        .order_by(t.messages.c.seq.desc())
        .offset(keep)
    )
    _drop(c, oldest)


def _drop(c: Connection, ids: Select[tuple[str]] | list[str]) -> None:
    dropped = advance(MESSAGE_MOVES, MessageState.QUEUED, MessageState.DROPPED)
    c.execute(update(t.messages).where(t.messages.c.id.in_(ids)).values(state=dropped))


def _next_batch(c: Connection, group_id: str) -> list[Message]:
    """The first message that wakes the agent, with as much around it as one prompt holds."""
    queued = select(t.messages).where(
        t.messages.c.group_id == group_id, t.messages.c.state == MessageState.QUEUED
    )
    seq = t.messages.c.seq
    first = c.execute(queued.where(t.messages.c.wakes).order_by(seq).limit(1)).mappings().first()
    if first is None:
        return []
    question = message_of(first)
    before = queued.where(seq < question.seq).order_by(seq.desc()).limit(MAX_CONTEXT)
    after = queued.where(seq > question.seq).order_by(seq).limit(MAX_MESSAGES_PER_TURN)
    batch, left_out = fit(
        [message_of(r) for r in c.execute(before).mappings()][::-1],
        question,
        [message_of(r) for r in c.execute(after).mappings()],
    )
    if left_out:
        _drop(c, [m.id for m in left_out])
    return batch


def fit(
    before: list[Message], question: Message, after: list[Message]
) -> tuple[list[Message], list[Message]]:
    """What goes into one prompt, and the context that is too old to go into any. Pure.

    The newest words before the question count most; what came after it may wait for the next turn.
    """
    room = MAX_MESSAGES_PER_TURN - 1
    chars = MAX_CHARS_PER_TURN - len(question.text)

    def take(messages: Iterable[Message]) -> list[Message]:
        nonlocal room, chars
        taken: list[Message] = []
        for m in messages:
            if room == 0 or len(m.text) > chars:
                break
            room -= 1
            chars -= len(m.text)
            taken.append(m)
        return taken

    context = take(reversed(before))[::-1]
    following = take(after)
    return [*context, question, *following], before[: len(before) - len(context)]


def _unfinished(c: Connection, group_id: str) -> tuple[RowMapping, tuple[Message, ...]] | None:
    running = select(t.turns).where(
        t.turns.c.group_id == group_id, t.turns.c.state == TurnState.RUNNING
    )
    row = c.execute(running).mappings().first()
    if row is None:
        return None
    query = select(t.messages).where(t.messages.c.turn_id == row["id"]).order_by(t.messages.c.seq)
    return row, tuple(message_of(m) for m in c.execute(query).mappings())


def _holds(c: Connection, turn: Turn) -> bool:
    query = select(t.turns.c.id).where(
        t.turns.c.id == turn.id,
        t.turns.c.state == TurnState.RUNNING,
        t.turns.c.attempt == turn.attempt,
    )
    return c.scalar(query) is not None


def _log(c: Connection, new: Sequence[Event]) -> None:
    if new:
        c.execute(
            insert(t.events),
            [
                {
                    "id": e.id,
                    "group_id": e.group,
                    "kind": e.kind,
                    "turn_id": e.turn_id,
                    "message_ids": list(e.message_ids),
                    "data": e.data,
                }
                for e in new
            ],
        )


def _log_start(c: Connection, turn: Turn, taken: Sequence[Message], event_id: int) -> Event:
    ids = tuple(m.id for m in taken)
    data = {"turn_id": turn.id, "attempt": turn.attempt, "message_ids": list(ids)}
    started = Event(event_id, turn.group, "turn.started", data, turn.id, ids)
    _log(c, [started])
    return started


def _prune_events(c: Connection, group_id: str) -> None:
    oldest_kept = c.scalar(
        select(t.events.c.id)
        .where(t.events.c.group_id == group_id)
        .order_by(t.events.c.id.desc())
        .offset(KEPT_EVENTS_PER_GROUP)
        .limit(1)
    )
    if oldest_kept is not None:
        c.execute(
            delete(t.events).where(t.events.c.group_id == group_id, t.events.c.id <= oldest_kept)
        )
