"""What fails for long is said when it begins, ever rarer, and when it is over."""

from structlog.testing import capture_logs

from runner.errors import TemporaryError
from runner.host.trouble import LONGEST_SILENCE, Trouble


def test_the_same_error_is_said_ever_rarer_and_its_end_once() -> None:
    now = 0.0
    trouble = Trouble("outbox.not_read", clock=lambda: now)
    said = []
    with capture_logs() as logs:
        for second in range(3600):
            now = float(second)
            before = len(logs)
            trouble.met(TemporaryError("away", code="store_unavailable"))
            said += [second] * (len(logs) - before)
        assert said[:5] == [0, 10, 30, 70, 150]
        assert said[-1] - said[-2] == LONGEST_SILENCE
        trouble.over()
        trouble.over()
    assert [e["event"] for e in logs].count("works.again") == 1
    assert logs[-1]["times"] == 3600


def test_another_error_and_one_after_it_worked_are_news() -> None:
    trouble = Trouble("outbox.not_read", clock=lambda: 0.0)
    with capture_logs() as logs:
        for code in ("a", "a", "b", "b"):
            trouble.met(TemporaryError("x", code=code))
        trouble.over()
        trouble.met(TemporaryError("x", code="b"))
    assert [e.get("code") for e in logs] == ["a", "b", None, "b"]
