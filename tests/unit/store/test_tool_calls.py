"""A host tool's effect and its result are one transaction, and happen once."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection

from runner.errors import PermanentError
from runner.model import Event, Message, Turn, TurnState
from runner.store import Claim, Store, event_log, groups, tool_calls
from runner.store.tool_calls import Call, Effect


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "db")
    yield store
    await store.close()


async def begin(store: Store) -> Turn:
    message = Message(id="msg", group="g", seq=0, text="hi")
    await store.accept(message, 10, Event(1, "g", "message.accepted", {}))
    claim = await store.claim("g", "host", 2)
    assert isinstance(claim, Claim)
    return claim.turn


def effect(c: Connection, event_id: int) -> Effect:
    groups.put(c, f"made-{len(groups.find_all(c))}")
    event = Event(event_id, "g", "message.sent", {"text": "made"})
    event_log.append(c, [event])
    return Effect("made", event)


async def run(store: Store, call: Call, event_id: int) -> tool_calls.Done:
    return await store.transact(lambda c: tool_calls.once(c, call, effect, event_id))


async def test_a_known_call_has_its_result_and_no_second_effect(store: Store) -> None:
    call = Call(await begin(store), "k", "send_message", 5)
    first = await run(store, call, 10)
    again = await run(store, call, 11)
    assert (first.text, again.text, again.event) == ("made", "made", None)
    assert len(await store.groups()) == 2
    assert [e.id for e in await store.events_after("g", 5)] == [10]


async def test_a_later_attempt_knows_the_calls_of_the_one_before(store: Store) -> None:
    turn = await begin(store)
    await run(store, Call(turn, "k", "send_message", 5), 10)
    later = await store.claim("g", "host", 11)
    assert isinstance(later, Claim)
    assert (await run(store, Call(later.turn, "k", "send_message", 5), 12)).event is None
    with pytest.raises(PermanentError) as caught:  # the attempt that was overtaken
        await run(store, Call(turn, "other", "send_message", 5), 13)
    assert caught.value.code == "turn_over"
    assert len(await store.groups()) == 2


async def test_a_turn_that_ended_can_do_nothing(store: Store) -> None:
    turn = await begin(store)
    ended = replace(turn, state=TurnState.DONE)
    await store.finish(ended, Event(5, "g", "turn.finished", {}, turn.id))
    for key, id_ in (("k", turn.id), ("k", "turn_forged")):
        with pytest.raises(PermanentError) as caught:
            await run(store, Call(replace(turn, id=id_), key, "send_message", 5), 10)
        assert caught.value.code == "turn_over"
    assert len(await store.groups()) == 1


async def test_a_tool_has_only_so_many_calls_in_a_turn(store: Store) -> None:
    turn = await begin(store)
    await run(store, Call(turn, "1", "send_message", 2), 10)
    await store.transact(lambda c: tool_calls.count(c, Call(turn, "2", "send_message", 2)))
    with pytest.raises(PermanentError) as caught:
        await run(store, Call(turn, "3", "send_message", 2), 12)
    assert caught.value.code == "tool_limit"
    assert (await run(store, Call(turn, "1", "send_message", 2), 13)).text == "made"
    assert (await run(store, Call(turn, "3", "list_tasks", 2), 14)).event is not None


async def test_what_fails_leaves_nothing(store: Store) -> None:
    call = Call(await begin(store), "k", "send_message", 5)

    def broken(c: Connection, event_id: int) -> Effect:
        effect(c, event_id)
        raise PermanentError("no")

    with pytest.raises(PermanentError, match="no"):
        await store.transact(lambda c: tool_calls.once(c, call, broken, 10))
    assert len(await store.groups()) == 1
    assert (await run(store, call, 11)).event is not None


async def test_a_key_belongs_to_one_tool(store: Store) -> None:
    turn = await begin(store)
    await run(store, Call(turn, "k", "send_message", 5), 10)
    with pytest.raises(PermanentError, match="that of a call of send_message"):
        await run(store, Call(turn, "k", "cancel_task", 5), 11)
