import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from runner.errors import BusyError, NotFoundError, PermanentError
from runner.model import Event, Message, MessageState, Turn, TurnState, Usage
from runner.store import KEPT_EVENTS_PER_GROUP, Accepted, Claim, Place, Store
from runner.store.queue import MAX_CHARS_PER_TURN, MAX_CONTEXT, MAX_MESSAGES_PER_TURN

HOST = "host"
_ids = iter(range(1, 10**9))


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = await Store.open(place)
    yield store
    await store.close()


def event(group: str, kind: str = "message.accepted", turn: str | None = None) -> Event:
    return Event(next(_ids), group, kind, {"n": 1}, turn)


async def say(
    store: Store,
    text: str,
    group: str = "g",
    *,
    external: str | None = None,
    wakes: bool = True,
    max_queue: int = 100,
    channel: str = "http",
) -> Accepted:
    message = Message(
        f"msg_{next(_ids)}",
        group,
        0,
        text,
        "Ada",
        external_id=external,
        wakes=wakes,
        created_at=time.time(),
        metadata={"a": [1]},
        channel=channel,
    )
    return await store.accept(message, max_queue, event(group))


async def claim(store: Store, group: str = "g") -> Claim:
    got = await store.claim(group, HOST, next(_ids))
    assert isinstance(got, Claim)
    return got


def ended(turn: Turn, state: TurnState = TurnState.DONE) -> Turn:
    return replace(
        turn,
        state=state,
        text="yes",
        usage=Usage(1, None, 2, 3),
        finished_at=time.time(),
    )


async def test_an_accepted_message_is_on_disk_with_its_event(store: Store, place: Place) -> None:
    accepted = await say(store, "hello")
    connect = sqlite3.connect if isinstance(place, Path) else psycopg.connect
    with closing(connect(str(place))) as other:
        rows = other.execute("select text, state, sender from messages").fetchall()
        events = other.execute("select kind from events").fetchall()
    assert rows == [("hello", "queued", "Ada")]
    assert events == [("message.accepted",)]
    assert (await store.message(accepted.message.id)).metadata == {"a": [1]}


async def test_the_same_external_id_is_one_message(store: Store) -> None:
    first = await say(store, "hello", external="x1")
    again = await say(store, "hello", external="x1")
    assert (again.message.id, again.duplicate) == (first.message.id, True)
    assert not (await say(store, "hello", external="x1", channel="other")).duplicate
    assert not (await say(store, "hello", "another group", external="x1")).duplicate
    assert len(await store.messages("g")) == 2


async def test_parallel_posts_of_one_external_id_make_one_message(store: Store) -> None:
    got = await asyncio.gather(*(say(store, "hello", external="x") for _ in range(20)))
    assert len({a.message.id for a in got}) == 1
    assert sum(not a.duplicate for a in got) == 1


async def test_a_full_queue_refuses_and_keeps_what_it_has(store: Store) -> None:
    for n in range(3):
        await say(store, str(n), max_queue=3)
    with pytest.raises(BusyError) as e:
        await say(store, "too much", max_queue=3)
    assert e.value.retry_after
    assert [m.text for m in await store.messages("g")] == ["0", "1", "2"]


async def test_a_claim_takes_what_waits_in_order(store: Store) -> None:
    await say(store, "context", wakes=False)
    await say(store, "question")
    got = await claim(store)
    assert [m.text for m in got.messages] == ["context", "question"]
    assert {m.state for m in got.messages} == {MessageState.CLAIMED}
    assert got.turn.attempt == 1
    assert got.event.message_ids == tuple(m.id for m in got.messages)


async def test_context_alone_makes_no_turn(store: Store) -> None:
    await say(store, "context", wakes=False)
    assert await store.claim("g", HOST, next(_ids)) is None
    assert await store.groups_with_work(HOST) == []


async def test_a_question_after_much_context_is_answered_with_the_newest_of_it(
    store: Store,
) -> None:
    for n in range(MAX_CONTEXT + 30):
        await say(store, f"c{n}", wakes=False, max_queue=3)
    await say(store, "question", max_queue=3)
    await say(store, "after", wakes=False)
    got = await claim(store)
    texts = [m.text for m in got.messages]
    assert len(texts) == MAX_MESSAGES_PER_TURN
    assert texts[-1] == "question"
    assert texts[0] == f"c{MAX_CONTEXT + 30 - (MAX_MESSAGES_PER_TURN - 1)}"
    await store.finish(ended(got.turn), event("g"))
    states = {m.text: m.state for m in await store.messages("g", limit=1000)}
    assert states["c0"] is MessageState.DROPPED
    assert states["after"] is MessageState.QUEUED


async def test_more_than_one_prompt_holds_waits_for_the_next_turn(store: Store) -> None:
    big = "x" * (MAX_CHARS_PER_TURN // 3)
    for n in range(5):
        await say(store, f"{n}{big}")
    seen = []
    for _ in range(3):
        got = await store.claim("g", HOST, next(_ids))
        if not isinstance(got, Claim):
            break
        assert sum(len(m.text) for m in got.messages) <= MAX_CHARS_PER_TURN
        seen.append([m.text[0] for m in got.messages])
        await store.finish(ended(got.turn), event("g"))
    assert seen == [["0", "1"], ["2", "3"], ["4"]]


async def test_events_of_a_deleted_group_are_not_written(store: Store) -> None:
    await store.put_group("g")
    await store.append_events([event("g", "tool.started"), event("gone", "tool.started")])
    assert len(await store.events_after("g", 0)) == 1
    assert await store.events_after("gone", 0) == []


async def test_an_unfinished_turn_is_taken_up_with_the_same_id(store: Store) -> None:
    await say(store, "question")
    first = await claim(store)
    await say(store, "later")
    second = await claim(store)
    assert second.turn.id == first.turn.id
    assert second.turn.attempt == 2
    assert [m.text for m in second.messages] == ["question"]


async def test_only_the_newest_attempt_may_end_a_turn(store: Store) -> None:
    await say(store, "question")
    first = await claim(store)
    second = await claim(store)
    assert not await store.finish(ended(first.turn), event("g", "turn.finished"))
    assert (await store.turn(first.turn.id)).state is TurnState.RUNNING
    assert await store.finish(ended(second.turn), event("g", "turn.finished"))
    assert not await store.finish(ended(second.turn), event("g", "turn.finished"))
    finished = [e for e in await store.events_after("g", 0) if e.kind == "turn.finished"]
    assert len(finished) == 1


@pytest.mark.parametrize(
    ("state", "left"),
    [
        (TurnState.DONE, MessageState.ANSWERED),
        (TurnState.FAILED, MessageState.FAILED),
        (TurnState.CANCELLED, MessageState.DROPPED),
    ],
)
async def test_the_end_of_a_turn_ends_its_messages(
    store: Store, state: TurnState, left: MessageState
) -> None:
    await say(store, "question")
    got = await claim(store)
    await say(store, "next")
    await store.finish(ended(got.turn, state), event("g"))
    assert [m.state for m in await store.messages("g")] == [left, MessageState.QUEUED]
    turn = await store.turn(got.turn.id)
    assert (turn.state, turn.text, turn.usage) == (state, "yes", Usage(1, None, 2, 3))


async def test_work_is_listed_oldest_group_first_and_survives_a_restart(place: Place) -> None:
    store = await Store.open(place)
    for group in ("b", "a", "c"):
        await say(store, "x", group)
    await claim(store, "a")
    got = await claim(store, "c")
    await store.finish(ended(got.turn), event("c"))
    install = await store.install_id()
    await store.close()
    store = await Store.open(place)
    assert set(await store.groups_with_work(HOST)) == {"a", "b"}
    assert await store.install_id() == install
    await store.close()


async def test_generations_grow_and_fence_the_session(store: Store) -> None:
    await say(store, "question")
    await claim(store)
    old = await store.next_generation("g", HOST)
    new = await store.next_generation("g", HOST)
    assert new == old + 1
    await store.set_session("g", "late", old)
    assert (await store.group("g")).session_id == ""
    await store.set_session("g", "right", new)
    assert (await store.group("g")).session_id == "right"
    await store.reset_group("g")
    assert (await store.group("g")).session_id == ""


async def test_a_deleted_group_leaves_nothing_and_a_late_end_is_harmless(store: Store) -> None:
    await say(store, "question")
    got = await claim(store)
    await store.delete_group("g")
    assert not await store.finish(ended(got.turn), event("g"))
    assert await store.groups() == []
    assert await store.events_after("g", 0) == []
    for call in (store.group("g"), store.messages("g"), store.turn(got.turn.id)):
        with pytest.raises(NotFoundError):
            await call


async def test_old_events_go_and_nothing_grows_for_ever(store: Store) -> None:
    await say(store, "question")
    got = await claim(store)
    await store.append_events([event("g", "tool.started") for _ in range(KEPT_EVENTS_PER_GROUP)])
    await store.finish(ended(got.turn), event("g", "turn.finished"))
    kept = await store.events_after("g", 0, limit=10**6)
    assert len(kept) == KEPT_EVENTS_PER_GROUP
    assert kept[-1].kind == "turn.finished"


async def test_a_file_that_is_no_database_is_said_so_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "nanokimi.db"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(PermanentError, match="damaged"):
        await Store.open(path)
    assert path.read_bytes().startswith(b"not a database")


async def test_the_database_is_private(tmp_path: Path) -> None:
    path = tmp_path / "nanokimi.db"
    await (await Store.open(path)).close()
    assert path.stat().st_mode & 0o077 == 0
