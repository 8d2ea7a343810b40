import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from runner.errors import BusyError
from runner.model import Event, Message, MessageState, Turn, TurnKind, TurnState
from runner.store import Place, Store, command_turns
from runner.store.command_turns import MAX_OPEN, Choose, Effect, Forget, Issued, Order
from runner.store.lease import Lease
from runner.store.overview import asked_for, overview

_ids = iter(range(1, 10**9))


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = await Store.open(place)
    await Lease(store, "me").enter()
    yield store
    await store.close()


def event(group: str, kind: str) -> Event:
    return Event(next(_ids), group, kind, {})


async def issue(
    store: Store, text: str = "/status", *, target: str = "g", external: str | None = None
) -> Issued:
    n = next(_ids)
    message = Message(f"msg_{n}", "g", 0, text, external_id=external, channel="http")
    turn = Turn(f"turn_{n}", "g", TurnState.RUNNING, 1, started_at=n, kind=TurnKind.COMMAND)
    order = Order(text.strip("/"), target)
    events = event("g", "message.accepted"), event("g", "turn.started")
    return await store.transact(lambda c: command_turns.issue(c, message, order, turn, *events))


async def finish(store: Store, turn: Turn, effect: Effect = None) -> bool:
    ended = replace(turn, state=TurnState.DONE, text="told", finished_at=time.time())
    told = event("g", "turn.finished")
    return await store.transact(lambda c: command_turns.finish(c, ended, told, "", effect))


async def unfinished(store: Store, host: str) -> list[tuple[str, bool]]:
    found = await store.read(lambda c: command_turns.unfinished(c, host))
    return [(turn.id, mine) for turn, mine in found]


async def chat_turn(store: Store) -> Turn:
    n = next(_ids)
    message = Message(f"msg_{n}", "g", 0, "hi", "Ada", channel="http", sender_id="ada")
    await store.accept(message, 10, event("g", "message.accepted"))
    claim = await store.claim("g", "me", next(_ids))
    assert claim is not None
    assert not hasattr(claim, "owner")
    return claim.turn  # type: ignore[union-attr]


async def test_a_command_is_written_claimed_with_its_running_turn(store: Store) -> None:
    issued = await issue(store)
    assert issued.turn is not None
    written = await store.message(issued.accepted.message.id)
    assert (written.state, written.turn_id) == (MessageState.CLAIMED, issued.turn.id)
    assert (await store.turn(issued.turn.id)).kind is TurnKind.COMMAND
    assert await store.groups_with_work("me") == []
    assert await store.claim("g", "me", next(_ids)) is None


async def test_its_answer_ends_it_with_its_message_once(store: Store) -> None:
    issued = await issue(store)
    assert issued.turn is not None
    assert await finish(store, issued.turn)
    assert (await store.message(issued.accepted.message.id)).state is MessageState.ANSWERED
    assert (await store.turn(issued.turn.id)).text == "told"
    assert not await finish(store, issued.turn)


async def test_the_same_external_id_is_one_command(store: Store) -> None:
    first = await issue(store, external="1")
    again = await issue(store, external="1")
    other = await issue(store, "/usage", external="1")
    assert again.turn is None
    assert again.accepted.message.id == first.accepted.message.id
    assert (again.accepted.command, other.accepted.command) == ("status", "")
    assert len(await unfinished(store, "me")) == 1


async def test_what_is_changed_changes_with_the_answer_or_not_at_all(store: Store) -> None:
    stale, good = (await issue(store)).turn, (await issue(store)).turn
    assert stale is not None
    assert good is not None
    taken = await store.transact(lambda c: command_turns.take(c, stale))
    assert taken is not None
    assert not await finish(store, stale, Choose("g", "k2"))
    assert (await store.group("g")).model == ""
    assert await finish(store, good, Choose("g", "k2"))
    assert (await store.group("g")).model == "k2"
    before = (await store.group("g")).generation
    assert await finish(store, taken[0], Forget("g"))
    assert (await store.group("g")).generation == before + 1


async def test_a_command_that_was_left_is_taken_by_one(store: Store) -> None:
    turn = (await issue(store)).turn
    assert turn is not None
    first = await store.transact(lambda c: command_turns.take(c, turn))
    second = await store.transact(lambda c: command_turns.take(c, turn))
    assert first is not None
    assert first[0].attempt == 2
    assert first[1].text == "/status"
    assert second is None


async def test_a_command_is_for_the_host_that_has_the_group_it_means(store: Store) -> None:
    await chat_turn(store)  # the group is mine now
    turn = (await issue(store)).turn
    elsewhere = (await issue(store, target="nobody's")).turn
    assert turn is not None
    assert elsewhere is not None
    assert await unfinished(store, "me") == [(turn.id, True), (elsewhere.id, False)]
    assert await unfinished(store, "other") == [(elsewhere.id, False)]


async def test_a_stop_means_the_turn_that_ran_when_it_was_said(store: Store) -> None:
    running = await chat_turn(store)
    issued = await issue(store, "/stop")
    assert issued.turn is not None
    assert Order.read(issued.turn).running_turn == running.id
    assert Order.read(await store.turn(issued.turn.id)).running_turn == running.id


async def test_commands_under_way_are_bounded_in_each_group(store: Store) -> None:
    for _ in range(MAX_OPEN):
        await issue(store)
    with pytest.raises(BusyError):
        await issue(store)


async def test_an_overview_tells_who_asked_and_what_waits(store: Store) -> None:
    running = await chat_turn(store)
    waiting = Message("msg_w", "g", 0, "and?", "Eve", channel="http", sender_id="eve")
    await store.accept(waiting, 10, event("g", "message.accepted"))
    await issue(store)
    found = await store.read(lambda c: overview(c, "g"))
    assert found.turn is not None
    assert (found.turn.id, found.askers, found.waiting) == (running.id, ("Ada",), 1)
    assert await store.read(lambda c: asked_for(c, running.id, "ada"))
    assert not await store.read(lambda c: asked_for(c, running.id, "eve"))
