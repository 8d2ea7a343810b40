"""Turns that are joined, held, and tried again, on both databases."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from runner.errors import NotFoundError
from runner.model import Event, Message, MessageState, Turn, TurnState
from runner.store import Claim, Place, Store
from runner.store.turn_desk import Turns
from runner.store.turns import last_seq

HOST = "host"
_ids = iter(range(1, 10**9))


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = await Store.open(place)
    yield store
    await store.close()


@pytest.fixture
def turns(store: Store) -> Turns:
    return Turns(store)


async def say(store: Store, text: str, *, wakes: bool = True, session: str = "") -> str:
    id_ = f"msg_{text}"
    message = Message(id_, "g", 0, text, wakes=wakes, session=session, channel="http")
    await store.accept(message, 100, Event(next(_ids), "g", "message.accepted", {}))
    return id_


async def claim(store: Store) -> Claim:
    got = await store.claim("g", HOST, next(_ids))
    assert isinstance(got, Claim)
    return got


async def finish(
    store: Store, turn: Turn, state: TurnState = TurnState.DONE, heard: tuple[str, ...] = ()
) -> Event | None:
    ended = replace(turn, state=state, finished_at=time.time())
    event = Event(next(_ids), "g", "turn.finished", {"turn_id": turn.id}, turn.id)
    return await store.finish(ended, event, "", heard)


async def states(store: Store) -> dict[str, MessageState]:
    return {m.text: m.state for m in await store.messages("g")}


# -- joining ------------------------------------------------------------------------------------


async def test_what_wakes_joins_in_order_and_context_waits(store: Store, turns: Turns) -> None:
    await say(store, "first")
    turn = (await claim(store)).turn
    await say(store, "second")
    await say(store, "context", wakes=False)
    await say(store, "of a task", session="task:1")
    await say(store, "third")
    joined = await turns.join(turn, next(_ids))
    assert joined is not None
    assert [m.text for m in joined.messages] == ["second", "third"]
    assert joined.event.message_ids == ("msg_second", "msg_third")
    assert (await store.events_after("g", 0))[-1].kind == "turn.steered"
    assert await turns.join(turn, next(_ids)) is None
    again = await claim(store)
    assert [(m.text, m.steered) for m in again.messages] == [
        ("first", False),
        ("second", True),
        ("third", True),
    ]


async def test_what_joined_and_was_not_heard_waits_again_and_nothing_is_lost(
    store: Store, turns: Turns
) -> None:
    await say(store, "first")
    turn = (await claim(store)).turn
    await say(store, "heard")
    await say(store, "late")
    await turns.join(turn, next(_ids))
    await say(store, "later")
    told = await finish(store, turn, heard=("msg_heard",))
    assert told is not None
    assert told.data["released"] == ["msg_late"]
    assert (await store.events_after("g", 0))[-1].data["released"] == ["msg_late"]
    assert await states(store) == {
        "first": MessageState.ANSWERED,
        "heard": MessageState.ANSWERED,
        "late": MessageState.QUEUED,
        "later": MessageState.QUEUED,
    }
    following = await claim(store)
    assert [(m.text, m.steered) for m in following.messages] == [("late", False), ("later", False)]


async def test_a_cancel_ends_what_joined_also_what_was_not_heard(
    store: Store, turns: Turns
) -> None:
    await say(store, "first")
    turn = (await claim(store)).turn
    await say(store, "late")
    await turns.join(turn, next(_ids))
    await say(store, "waits")
    told = await finish(store, turn, TurnState.CANCELLED)
    assert told is not None
    assert "released" not in told.data
    assert await states(store) == {
        "first": MessageState.DROPPED,
        "late": MessageState.DROPPED,
        "waits": MessageState.QUEUED,
    }


async def test_nothing_joins_a_turn_that_ended_or_an_attempt_that_is_over(
    store: Store, turns: Turns
) -> None:
    await say(store, "first")
    old = (await claim(store)).turn
    new = (await claim(store)).turn
    await say(store, "second")
    assert await turns.join(old, next(_ids)) is None
    await finish(store, new)
    assert await turns.join(new, next(_ids)) is None
    assert (await states(store))["second"] is MessageState.QUEUED


async def test_the_answer_to_a_question_is_the_first_message_after_it(
    store: Store, turns: Turns
) -> None:
    await say(store, "first")
    turn = (await claim(store)).turn
    await say(store, "before", wakes=False)
    asked = await store.read(lambda c: last_seq(c, "g"))
    assert await turns.join(turn, next(_ids), answer_after=asked) is None
    await say(store, "yes", wakes=False)
    await say(store, "more", wakes=False)
    joined = await turns.join(turn, next(_ids), answer_after=asked)
    assert joined is not None
    assert [m.text for m in joined.messages] == ["yes"]


async def test_a_turn_is_joined_by_a_bounded_number(store: Store, turns: Turns) -> None:
    await say(store, "first")
    turn = (await claim(store)).turn
    for n in range(60):
        await say(store, str(n))
    joined = await turns.join(turn, next(_ids))
    assert joined is not None
    assert len(joined.messages) == 50
    assert await turns.join(turn, next(_ids)) is None


# -- conversations ------------------------------------------------------------------------------


async def test_a_turn_belongs_to_one_conversation_which_is_remembered(store: Store) -> None:
    await say(store, "one", session="task:1")
    await say(store, "two")
    await say(store, "three", session="task:1")
    first = await claim(store)
    assert [m.text for m in first.messages] == ["one", "three"]
    assert (first.turn.session, first.session_id) == ("task:1", "")
    generation = await store.next_generation("g", HOST)
    await store.set_session("g", "stale", generation - 1, "task:1")
    await store.set_session("g", "s1", generation, "task:1")
    await store.set_session("g", "s2", generation, "task:1")
    await store.set_session("g", "own", generation)
    again = await claim(store)
    assert (again.turn.session, again.session_id) == ("task:1", "s2")
    await finish(store, again.turn)
    second = await claim(store)
    assert [m.text for m in second.messages] == ["two"]
    assert (second.turn.session, second.session_id) == ("", "own")
    await finish(store, second.turn)
    await store.reset_group("g")
    await say(store, "four", session="task:1")
    assert (await claim(store)).session_id == ""


# -- held and failed ----------------------------------------------------------------------------


async def test_a_held_turn_keeps_its_excuses_and_since_when(store: Store, turns: Turns) -> None:
    await say(store, "question")
    turn = (await claim(store)).turn
    held = await turns.hold(turn)
    assert held is not None
    assert held.excused == 1
    again = (await claim(store)).turn
    assert (again.attempt, again.excused, again.held_since) == (2, 1, held.held_since)
    assert await turns.hold(turn) is None  # a stale attempt excuses nothing
    twice = await turns.hold(again)
    assert twice is not None
    assert (twice.excused, twice.held_since) == (2, held.held_since)
    await turns.let_go(again)
    assert (await store.turn(turn.id)).held_since is None


async def test_failed_messages_wait_again_in_their_old_order(store: Store, turns: Turns) -> None:
    dead = []
    for text in ("one", "two"):
        await say(store, text)
        turn = (await claim(store)).turn
        await finish(store, turn, TurnState.FAILED)
        dead.append(turn.id)
    await say(store, "three")
    assert await turns.count_dead("g") == 2
    failed = await turns.page("g", TurnState.FAILED, 10)
    assert {t.id for t in failed} == set(dead)
    got = await turns.retry("g", dead[1])
    assert got.message_ids == ("msg_two",)
    assert await turns.count_dead("g") == 1
    got = await turns.retry("g", None)
    assert got.turn_ids == (dead[0],)
    assert await turns.count_dead("g") == 0
    new = await claim(store)
    assert [m.text for m in new.messages] == ["one", "two", "three"]
    assert new.turn.id not in dead
    with pytest.raises(NotFoundError):
        await turns.retry("g", dead[0])
    with pytest.raises(NotFoundError):
        await turns.retry("nowhere", None)
    assert (await turns.retry("g", None)).message_ids == ()
