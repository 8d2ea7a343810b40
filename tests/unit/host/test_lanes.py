"""Who sends next: nobody waits for a receiver that is not theirs, and none is forgotten."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runner.host.lanes import Lanes

TOTAL, EACH = 4, 2


def test_who_was_due_first_goes_first_and_nobody_before_time() -> None:
    lanes = Lanes(TOTAL, EACH)
    for group, due in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        lanes.put(group, group, due)
    assert lanes.take(0.5) is None
    assert lanes.next_due() == 1.0
    assert [lanes.take(2.0) for _ in range(3)] == ["b", "c", None]
    assert lanes.next_due() == 3.0


def test_a_receiver_that_hangs_leaves_places_for_others() -> None:
    lanes = Lanes(TOTAL, EACH)
    for n in range(100):
        lanes.put(f"dead-{n}", "dead", n)
    lanes.put("alive", "alive", 1000)
    assert [lanes.take(1000) for _ in range(4)] == ["dead-0", "dead-1", "alive", None]
    lanes.done("dead-0")
    assert lanes.take(1000) == "dead-2"


def test_one_that_no_longer_sends_does_not_keep_the_next_in_its_lane_waiting() -> None:
    lanes = Lanes(TOTAL, EACH)
    for n, group in enumerate("abcdef"):
        lanes.put(group, "x", n)
    assert [lanes.take(9) for _ in range(3)] == ["a", "b", None]
    lanes.done("a")
    lanes.drop("c")
    lanes.done("b")
    lanes.drop("d")
    assert [lanes.take(9) for _ in range(3)] == ["e", "f", None]


def test_a_group_sends_one_at_a_time() -> None:
    lanes = Lanes(TOTAL, EACH)
    lanes.put("a", "x", 1)
    assert lanes.take(1) == "a"
    lanes.put("a", "x", 1)
    assert lanes.take(1) is None
    assert not lanes.idle(1)
    lanes.done("a")
    assert lanes.idle(1)
    lanes.put("a", "x", 1)
    assert not lanes.idle(1)
    assert lanes.take(1) == "a"


@given(st.floats(0, 10))
def test_a_change_of_time_or_place_counts(now: float) -> None:
    lanes = Lanes(TOTAL, EACH)
    lanes.put("a", "x", now)
    lanes.put("a", "y", now + 5)
    assert lanes.take(now) is None
    assert lanes.take(now + 5) == "a"
    lanes.put("b", "x", now)
    lanes.drop("b")
    assert lanes.take(now + 5) is None
    assert lanes.next_due() is None


class Model(RuleBasedStateMachine):
    """Against the plain words of the rules."""

    groups = st.sampled_from("abcdefgh")

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes(TOTAL, EACH)
        self.waiting: dict[str, tuple[str, float]] = {}
        self.running: dict[str, str] = {}
        self.now = 0.0

    @rule(group=groups, lane=st.sampled_from("xyz"), wait=st.integers(0, 3))
    def put(self, group: str, lane: str, wait: int) -> None:
        self.lanes.put(group, lane, self.now + wait)
        if group not in self.running:
            self.waiting[group] = (lane, self.now + wait)

    @rule(group=groups)
    def drop(self, group: str) -> None:
        self.lanes.drop(group)
        self.waiting.pop(group, None)

    @rule(seconds=st.integers(0, 2))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    def ready(self) -> dict[str, float]:
        if len(self.running) >= TOTAL:
            return {}
        busy = list(self.running.values())
        return {
            g: due
            for g, (lane, due) in self.waiting.items()
            if due <= self.now and busy.count(lane) < EACH
        }

    @rule()
    def take(self) -> None:
        ready = self.ready()
        got = self.lanes.take(self.now)
        if not ready:
            assert got is None
        else:
            assert got in ready
            assert ready[got] == min(ready.values())
            self.running[got] = self.waiting.pop(got)[0]

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.running)))
        self.lanes.done(group)
        del self.running[group]

    @invariant()
    def idle_is_idle(self) -> None:
        if not self.running:
            assert self.lanes.idle(self.now) == (not self.ready())


TestLanesKeepTheRules = Model.TestCase
