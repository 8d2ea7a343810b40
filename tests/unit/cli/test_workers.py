"""When a worker that died is started again."""

from runner.cli.workers import backoff


def test_a_worker_that_dies_once_is_back_at_once() -> None:
    assert backoff(1) == 0.1


def test_one_that_dies_again_and_again_waits_longer_within_a_bound() -> None:
    pauses = [backoff(deaths) for deaths in range(1, 2000)]
    assert pauses == sorted(pauses)
    assert pauses[1] > pauses[0]
    assert pauses[-1] == 10
