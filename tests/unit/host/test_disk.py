"""When a sandbox has to end for what its group's files take."""

import pytest

from runner.host.disk import over_quota
from runner.sandbox.trees import Missing, Usage

MIB = 1 << 20
NOTHING = Usage()


def over(found: int, before: int = 0, limit: int = 100) -> bool:
    return over_quota("g", Usage(found * MIB), Usage(before * MIB), limit * MIB) is not None


def test_up_to_the_limit_nothing_happens():
    assert not over(100)
    assert over(101)


def test_who_began_with_too_much_may_clean_up_but_not_take_more():
    assert not over(150, before=150)
    assert not over(151, before=150)  # what its journal needs
    assert over(152, before=150)
    assert not over(90, before=150)


def test_who_began_below_the_limit_has_no_such_grace():
    assert over(101, before=100)


def test_far_beyond_the_limit_nobody_goes_on():
    assert over(201, before=201)


@pytest.mark.parametrize("why", [Missing.ENTRIES, Missing.DEPTH, Missing.LOCKED])
def test_what_cannot_be_counted_is_too_much(why: Missing):
    error = over_quota("g", Usage(1, 1, why), NOTHING, 100)
    assert error is not None
    assert str(why) in error.message


def test_a_slow_disk_is_nobodys_fault():
    assert over_quota("g", Usage(1, 1, Missing.TIME), NOTHING, 100) is None


def test_the_error_names_the_group_and_both_sizes():
    error = over_quota("birds", Usage(150 * MIB), NOTHING, 100 * MIB)
    assert error is not None
    assert error.message == "the files of group 'birds' take 150.0 MiB, and 100.0 MiB are allowed"
    assert error.hint
