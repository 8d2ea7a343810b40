"""A due time has its message once: whoever races, whatever was missed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import update

from runner.model import Message, MessageState, Role, Task, TaskState, Turn, TurnState
from runner.schedule import ScheduleKind
from runner.store import Place, Store, firing, queue, schema, tasks
from runner.store.firing import Fired, Postpone, Run, Skip, Terms, Why, decide
from runner.store.silence import SILENCE, TASK_CHANNEL, is_silent
from runner.store.task_desk import NewTask, TaskLimits, Tasks

HOUR = 3600.0
NOW = 1_800_000_000.0
HOURLY = NewTask("look around", ScheduleKind.INTERVAL, "1h", reply_url="http://bot.example/in")
_ids = iter(range(1, 10**9))


@dataclass
class Clockwork:
    """A store and a clock that the test moves."""

    store: Store
    now: float = NOW
    role: Role = Role.MEMBER
    max_queue: int = 100
    missed_before: float = 0.0
    tasks: Tasks = field(init=False)

    def __post_init__(self) -> None:
        limits = TaskLimits(100, 60.0, "UTC", "once")
        self.tasks = Tasks(self.store, lambda: limits, clock=lambda: self.now)

    def terms(self) -> Terms:
        return Terms(
            now=self.now,
            missed_before=self.missed_before,
            max_queue=self.max_queue,
            role=self.role,
            held=False,
            event_id=next(_ids),
        )

    async def fire(self, task: Task, store: Store | None = None) -> Fired | None:
        terms = self.terms()
        return await (store or self.store).transact(lambda c: firing.fire(c, task, terms))

    async def task(self, task: Task) -> Task:
        return (await self.tasks.show(task.id, task.group)).task

    async def messages(self) -> list[Message]:
        return await self.store.messages("g")

    async def end_run(self, task: Task) -> None:
        """As if a turn had answered the task's last message."""
        said = update(schema.messages).where(schema.messages.c.id == task.last_message_id)
        await self.store.transact(lambda c: c.execute(said.values(state=MessageState.ANSWERED)))


@pytest.fixture
async def clockwork(place: Place) -> AsyncIterator[Clockwork]:
    store = await Store.open(place)
    await store.put_group("g")
    yield Clockwork(store)
    await store.close()


async def test_a_due_task_is_a_message_and_has_its_next_time(clockwork: Clockwork) -> None:
    task = await clockwork.tasks.add("g", HOURLY, created_by="ada")
    clockwork.now += HOUR + 5
    clockwork.role = Role.ADMIN
    fired = await clockwork.fire(task)
    assert fired is not None
    assert fired.decision == Run()
    (message,) = await clockwork.messages()
    assert (message.text, message.channel, message.wakes) == ("look around", TASK_CHANNEL, True)
    assert (message.role, message.sender_id) == (Role.ADMIN, "ada")
    assert message.session == f"task:{task.id}"
    assert message.external_id == f"{task.id}:{NOW + HOUR:.3f}"
    assert message.reply_url == "http://bot.example/in"
    assert message.metadata["task"]["due"] == "2027-01-15T09:00:00+00:00"
    after = await clockwork.task(task)
    assert (after.next_at, after.last_at, after.runs) == (NOW + 2 * HOUR, NOW + HOUR, 1)
    assert after.last_message_id == message.id
    (event,) = await clockwork.store.events_after("g", 0)
    assert event == fired.event
    assert event.data["task_id"] == task.id
    assert event.message_ids == (message.id,)


async def test_who_comes_second_changes_nothing(clockwork: Clockwork) -> None:
    task = await clockwork.tasks.add("g", HOURLY)
    clockwork.now += HOUR
    assert await clockwork.fire(task) is not None
    assert await clockwork.fire(task) is None
    assert len(await clockwork.messages()) == 1


async def test_two_hosts_that_race_make_one_message_of_each_time(
    clockwork: Clockwork, place: Place
) -> None:
    other = await Store.open(place)
    made = [await clockwork.tasks.add("g", HOURLY) for _ in range(10)]
    try:
        for _ in range(3):
            clockwork.now += HOUR
            seen = [await clockwork.task(t) for t in made]
            both = await asyncio.gather(
                *(clockwork.fire(t, store) for t in seen for store in (clockwork.store, other))
            )
            assert sum(f is not None for f in both) == len(made)
            for t in made:
                await clockwork.end_run(await clockwork.task(t))
    finally:
        await other.close()
    messages = await clockwork.messages()
    assert len(messages) == 30
    assert len({m.external_id for m in messages}) == 30


async def test_a_failed_transaction_leaves_the_time_due(clockwork: Clockwork) -> None:
    task = await clockwork.tasks.add("g", HOURLY)
    clockwork.now += HOUR
    terms = clockwork.terms()

    def dies(c: object) -> None:
        assert firing.fire(c, task, terms) is not None  # type: ignore[arg-type]
        raise RuntimeError("before the commit")

    with pytest.raises(RuntimeError):
        await clockwork.store.transact(dies)
    assert await clockwork.messages() == []
    assert (await clockwork.fire(task)) is not None
    assert len(await clockwork.messages()) == 1


async def test_a_downtime_over_several_times_makes_one_run(clockwork: Clockwork) -> None:
    task = await clockwork.tasks.add("g", HOURLY)
    clockwork.now = clockwork.missed_before = NOW + 10.5 * HOUR
    fired = await clockwork.fire(task)
    assert fired is not None
    assert fired.decision == Run()
    assert (await clockwork.task(task)).next_at == NOW + 11 * HOUR
    assert len(await clockwork.messages()) == 1


async def test_a_downtime_makes_no_run_of_a_task_that_skips(clockwork: Clockwork) -> None:
    task = await clockwork.tasks.add("g", replace(HOURLY, missed="skip"))
    clockwork.now = clockwork.missed_before = NOW + 10.5 * HOUR
    fired = await clockwork.fire(task)
    assert fired is not None
    assert fired.decision == Skip(Why.MISSED)
    assert fired.event is not None
    assert (fired.event.kind, fired.event.data["reason"]) == ("task.skipped", "missed")
    assert await clockwork.messages() == []
    after = await clockwork.task(task)
    assert after.next_at == NOW + 11 * HOUR
    clockwork.now = NOW + 11 * HOUR + 1
    fired = await clockwork.fire(after)
    assert fired is not None
    assert fired.decision == Run()


async def test_a_task_that_comes_once_is_done_after_its_run(clockwork: Clockwork) -> None:
    task = await clockwork.tasks.add(
        "g", NewTask("wake me", ScheduleKind.ONCE, "2027-01-15T09:00Z")
    )
    clockwork.now += HOUR
    await clockwork.fire(task)
    after = await clockwork.task(task)
    assert (after.state, after.next_at, after.runs) == (TaskState.DONE, None, 1)
    assert await clockwork.fire(after) is None


async def test_a_run_whose_former_one_still_waits_is_left_out_and_says_so(
    clockwork: Clockwork,
) -> None:
    task = await clockwork.tasks.add("g", HOURLY)
    clockwork.now += HOUR
    await clockwork.fire(task)
    clockwork.now += HOUR
    fired = await clockwork.fire(await clockwork.task(task))
    assert fired is not None
    assert fired.decision == Skip(Why.STILL_RUNNING)
    assert len(await clockwork.messages()) == 1
    after = await clockwork.task(task)
    assert (after.last_at, after.next_at) == (NOW + HOUR, NOW + 3 * HOUR)
    await clockwork.end_run(after)
    clockwork.now += HOUR
    fired = await clockwork.fire(after)
    assert fired is not None
    assert fired.decision == Run()


async def test_a_full_queue_postpones_the_run(clockwork: Clockwork) -> None:
    task = await clockwork.tasks.add("g", HOURLY)
    chat = Message("msg_1", "g", 0, "hello", channel="http")
    await clockwork.store.transact(lambda c: queue.insert_message(c, chat))
    clockwork.now += HOUR
    clockwork.max_queue = 1
    fired = await clockwork.fire(task)
    assert fired is not None
    assert fired.decision == Postpone(Why.QUEUE_FULL)
    assert (await clockwork.task(task)).next_at == NOW + HOUR
    clockwork.now += 60
    clockwork.max_queue = 2
    fired = await clockwork.fire(task)
    assert fired is not None
    assert fired.decision == Run()
    assert (await clockwork.messages())[-1].external_id == f"{task.id}:{NOW + HOUR:.3f}"


@pytest.mark.parametrize(
    "how", ["paused", "paused with its time", "cancelled", "moved", "group removed", "not due"]
)
async def test_what_is_not_due_any_more_is_not_fired(clockwork: Clockwork, how: str) -> None:
    task = await clockwork.tasks.add("g", HOURLY)
    clockwork.now += HOUR
    match how:
        case "paused":
            await clockwork.tasks.pause("g", task.id)
        case "cancelled":
            await clockwork.tasks.cancel("g", task.id)
        case "paused with its time":
            paused = replace(task, state=TaskState.PAUSED)
            await clockwork.store.transact(lambda c: tasks.put(c, paused))
        case "moved":  # to a time that is due as well, and has to be found as such
            moved = replace(task, next_at=NOW + HOUR / 2)
            await clockwork.store.transact(lambda c: tasks.put(c, moved))
        case "group removed":
            await clockwork.store.delete_group("g")
            await clockwork.store.put_group("g")
        case "not due":
            clockwork.now -= 1
    assert await clockwork.fire(task) is None
    assert await clockwork.messages() == []


async def test_a_person_who_was_blocked_since_has_no_more_runs(clockwork: Clockwork) -> None:
    task = await clockwork.tasks.add("g", HOURLY, created_by="mallory")
    clockwork.now += HOUR
    clockwork.role = Role.BLOCKED
    fired = await clockwork.fire(task)
    assert fired is not None
    assert fired.decision == Skip(Why.NOT_ALLOWED)
    assert await clockwork.messages() == []


async def test_a_clock_set_back_does_not_fire_a_time_again(clockwork: Clockwork) -> None:
    task = await clockwork.tasks.add("g", HOURLY)
    clockwork.now += HOUR
    await clockwork.fire(task)
    await clockwork.end_run(await clockwork.task(task))
    clockwork.now -= 2 * HOUR
    assert await clockwork.store.read(lambda c: tasks.due(c, clockwork.now)) == []
    clockwork.now += 2 * HOUR
    assert await clockwork.store.read(lambda c: tasks.due(c, clockwork.now)) == []


async def test_the_list_says_what_became_of_the_last_run(clockwork: Clockwork) -> None:
    task = await clockwork.tasks.add("g", HOURLY)
    clockwork.now += HOUR
    await clockwork.fire(task)
    assert (await clockwork.tasks.show(task.id, "g")).last_status == "queued"


_TASK = Task("task_1", "g", "p", "interval", "60", "UTC", 1000.0)


@pytest.mark.parametrize(
    ("task", "change", "still_runs", "full", "expected"),
    [
        (_TASK, {}, False, False, Run()),
        (_TASK, {"role": Role.BLOCKED}, True, True, Skip(Why.NOT_ALLOWED)),
        (_TASK, {"missed_before": 1001.0}, False, False, Run()),
        (replace(_TASK, missed="skip"), {"missed_before": 1001.0}, True, True, Skip(Why.MISSED)),
        (replace(_TASK, missed="skip"), {"missed_before": 1000.0}, False, False, Run()),
        (_TASK, {}, True, True, Skip(Why.STILL_RUNNING)),
        (replace(_TASK, kind="once"), {}, True, False, Postpone(Why.STILL_RUNNING)),
        (_TASK, {}, False, True, Postpone(Why.QUEUE_FULL)),
    ],
)
def test_what_becomes_of_a_due_task(
    task: Task, change: dict[str, float], still_runs: bool, full: bool, expected: object
) -> None:
    terms = replace(Terms(1010.0, 0.0, 10, Role.MEMBER, False, 1), **change)  # type: ignore[arg-type]
    assert decide(task, terms, still_runs=still_runs, full=full) == expected


@pytest.mark.parametrize(
    ("text", "state", "channels", "silent"),
    [
        (SILENCE, TurnState.DONE, ["task"], True),
        (f"  `{SILENCE}`.\n", TurnState.DONE, ["task", "task"], True),
        ("", TurnState.DONE, ["task"], True),
        (f"{SILENCE} but the disk is full", TurnState.DONE, ["task"], False),
        (SILENCE, TurnState.DONE, ["http"], False),
        (SILENCE, TurnState.DONE, ["task", "http"], False),
        ("", TurnState.FAILED, ["task"], False),
    ],
)
def test_only_a_scheduled_run_may_end_in_silence(
    text: str, state: TurnState, channels: list[str], silent: bool
) -> None:
    messages = [Message(f"m{n}", "g", n, "x", channel=c) for n, c in enumerate(channels)]
    context = Message("c", "g", 9, "by the way", channel="http", wakes=False)
    ended = Turn("turn_1", "g", state, 1, text=text)
    assert is_silent(ended, messages) is silent
    assert is_silent(ended, [*messages, context]) is silent
