import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.model import MESSAGE_MOVES, SANDBOX_MOVES, TURN_MOVES, MessageState, advance, folder_of


@given(st.text(min_size=1, max_size=300))
def test_any_group_id_becomes_a_safe_folder_name(group_id: str) -> None:
    folder = folder_of(group_id)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", folder)
    assert os.path.basename(folder) == folder


@given(st.text(min_size=1, max_size=50), st.text(min_size=1, max_size=50))
def test_two_ids_never_share_a_folder(one: str, other: str) -> None:
    assert (folder_of(one) == folder_of(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"), [("Team", "team"), ("é", "e\u0301"), ("a/b", "a-b"), ("x" * 300, "x" * 301)]
)
def test_ids_that_look_alike_have_their_own_folders(one: str, other: str) -> None:
    assert folder_of(one).lower() != folder_of(other).lower()


@pytest.mark.parametrize("hostile", ["../../etc", "/", "..", ".", "🐦", "-rf", "CON", "a\0b"])
def test_hostile_ids_are_only_text(hostile: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", folder_of(hostile))


@pytest.mark.parametrize("table", [MESSAGE_MOVES, TURN_MOVES, SANDBOX_MOVES])
def test_every_state_has_its_row_and_no_way_back_to_itself(table: dict) -> None:  # type: ignore[type-arg]
    states = set(type(next(iter(table))))
    assert set(table) == states
    assert all(state not in moves and moves <= states for state, moves in table.items())


def test_an_illegal_move_is_a_bug_that_shows() -> None:
    with pytest.raises(ValueError, match="answered -> queued"):
        advance(MESSAGE_MOVES, MessageState.ANSWERED, MessageState.QUEUED)
