"""Queue and leases against a model in plain Python, on both databases.

Two hosts accept, claim, join, finish, die and come back in every order that hypothesis thinks of;
ends come from fresh and from stale holders. After each step the database says what the model says.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, delete, update

from runner.errors import BusyError
from runner.model import Event, Message, MessageState, Turn, TurnState
from runner.store import Claim, Place, groups, hosts, queue, turns, upgrade
from runner.store import schema as t
from runner.store.database import open_engine
from runner.store.hosts import Elsewhere

QUEUED, CLAIMED = MessageState.QUEUED, MessageState.CLAIMED
HOSTS = ("one", "other")
MAX_QUEUE = 4
AFTER = {
    TurnState.DONE: MessageState.ANSWERED,
    TurnState.FAILED: MessageState.FAILED,
    TurnState.CANCELLED: MessageState.DROPPED,
}
_numbers = itertools.count(1)


@dataclass
class Said:
    id: str
    wakes: bool
    state: MessageState = QUEUED
    turn: str = ""
    joined: bool = False


@dataclass
class Chat:
    """What the model knows of a group: its messages in order, and the attempt that runs."""

    said: list[Said] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    owner: str = ""
    running: tuple[str, int] | None = None

    def waking(self) -> list[Said]:
        return [m for m in self.said if m.state is QUEUED and m.wakes]

    def of(self, turn: str) -> list[Said]:
        return [m for m in self.said if m.turn == turn and m.state is CLAIMED]


class QueueMachine(RuleBasedStateMachine):
    engine: Engine

    @initialize()
    def begin(self) -> None:
        run = next(_numbers)
        self.chats = {f"birds {run}": Chat(), f"fish {run}": Chat()}
        self.living: set[str] = set()
        self.claims: list[Turn] = []
        with self.engine.begin() as c:
            c.execute(delete(t.hosts))

    @rule(which=st.integers(0, 1), external=st.sampled_from(["", "x", "y"]), wakes=st.booleans())
    def accept(self, which: int, external: str, wakes: bool) -> None:
        group, chat = list(self.chats.items())[which]
        message = Message(
            f"msg_{next(_numbers)}", group, 0, "text", "Ada",
            external_id=external or None, wakes=wakes, created_at=time.time(),
        )  # fmt: skip
        full = wakes and len(chat.waking()) >= MAX_QUEUE
        try:
            with self.engine.begin() as c:
                log = self.event(group, "message.accepted")
                got = queue.accept(c, message, MAX_QUEUE, log)
        except BusyError:
            assert full
            assert external not in chat.known
            return
        if external in chat.known:
            assert (got.duplicate, got.message.id) == (True, chat.known[external])
            return
        assert not full
        assert not got.duplicate
        chat.said.append(Said(message.id, wakes))
        if external:
            chat.known[external] = message.id

    @rule(which=st.integers(0, 1), host=st.sampled_from(HOSTS))
    def claim(self, which: int, host: str) -> None:
        group, chat = list(self.chats.items())[which]
        with self.engine.begin() as c:
            got = queue.claim(c, group, host, next(_numbers))
        if chat.owner not in ("", host) and chat.owner in self.living:
            assert isinstance(got, Elsewhere)
            assert got.owner == chat.owner
            return
        if chat.said:  # a group comes to life with its first message
            chat.owner = host
        if chat.running is not None:
            turn, attempt = chat.running
            assert isinstance(got, Claim)
            assert (got.turn.id, got.turn.attempt) == (turn, attempt + 1)
        elif chat.waking():
            assert isinstance(got, Claim)
            assert got.turn.attempt == 1
            for m in chat.said:
                if m.state is QUEUED:
                    m.state, m.turn = CLAIMED, got.turn.id
        else:
            assert got is None
            return
        chat.running = (got.turn.id, got.turn.attempt)
        assert [m.id for m in got.messages] == [m.id for m in chat.of(got.turn.id)]
        self.claims.append(got.turn)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        turn, chat = self.any_claim(data)
        with self.engine.begin() as c:
            got = turns.join(c, turn, next(_numbers))
        waiting = chat.waking() if chat.running == (turn.id, turn.attempt) else []
        assert [m.id for m in got.messages] == [m.id for m in waiting] if got else not waiting
        for m in waiting:
            m.state, m.turn, m.joined = CLAIMED, turn.id, True

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), state=st.sampled_from(list(AFTER)))
    def finish(self, data: st.DataObject, state: TurnState) -> None:
        turn, chat = self.any_claim(data)
        joined = [m for m in chat.of(turn.id) if m.joined]
        heard = {m.id for m in joined if data.draw(st.booleans())}
        ended = replace(turn, state=state, finished_at=time.time())
        with self.engine.begin() as c:
            log = self.event(turn.group, "turn.finished")
            written = queue.finish(c, ended, log, heard=heard)
        assert (written is not None) == (chat.running == (turn.id, turn.attempt))
        if written is None:
            return
        chat.running = None
        for m in chat.of(turn.id):
            if m.joined and m.id not in heard and state is not TurnState.CANCELLED:
                m.state, m.turn, m.joined = QUEUED, "", False
            else:
                m.state = AFTER[state]

    @rule(which=st.integers(0, 1))
    def retry(self, which: int) -> None:
        group, chat = list(self.chats.items())[which]
        if not chat.said:
            return
        with self.engine.begin() as c:
            got = turns.retry(c, group, None)
        failed = [m for m in chat.said if m.state is MessageState.FAILED]
        assert list(got.message_ids) == [m.id for m in failed]
        for m in failed:
            m.state, m.turn, m.joined = QUEUED, "", False

    @rule(host=st.sampled_from(HOSTS))
    def live(self, host: str) -> None:
        with self.engine.begin() as c:
            hosts.enter(c, host, 1.0)
        self.living.add(host)

    @rule(host=st.sampled_from(HOSTS))
    def fall_silent(self, host: str) -> None:
        with self.engine.begin() as c:
            c.execute(update(t.hosts).where(t.hosts.c.id == host).values(expires_at=0.0))
        self.living.discard(host)

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from(sorted(self.living)))
        with self.engine.begin() as c:
            hosts.leave(c, host, 1.0)
        self.living.discard(host)
        for chat in self.chats.values():
            if chat.owner == host:
                chat.owner = ""

    @invariant()
    def the_database_says_what_the_model_says(self) -> None:
        with self.engine.begin() as c:
            for group, chat in getattr(self, "chats", {}).items():
                if not chat.said:
                    continue
                found = queue.page(c, group, 0, 1000)
                assert [(m.id, m.state, m.turn_id or "", m.steered) for m in found] == [
                    (m.id, m.state, m.turn, m.joined) for m in chat.said
                ]
                assert groups.need(c, group).owner == chat.owner
                running = turns.page(c, group, TurnState.RUNNING, 10)
                assert [(r.id, r.attempt) for r in running] == (
                    [chat.running] if chat.running else []
                )

    def any_claim(self, data: st.DataObject) -> tuple[Turn, Chat]:
        """Fresh or stale."""
        turn = data.draw(st.sampled_from(self.claims))
        return turn, self.chats[turn.group]

    def event(self, group: str, kind: str) -> Event:
        return Event(next(_numbers), group, kind, {})


@pytest.fixture
def engine(place: Place) -> Iterator[Engine]:
    made = open_engine(place)
    with made.begin() as c:
        upgrade.prepare(c)
    yield made
    made.dispose()


@pytest.mark.timeout(300)
def test_queue_and_leases_do_what_a_simple_model_does(engine: Engine) -> None:
    machine = type("Machine", (QueueMachine,), {"engine": engine})
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=checks
        ),
    )
