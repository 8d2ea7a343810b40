from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from runner.gateway.formats import toolids

from .strategies import properties

FITS = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ids = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.from_regex(r"(functions\.)?[a-zA-Z0-9_-]{1,40}:[0-9]{1,2}", fullmatch=True),
    st.from_regex(r"nk[-_](-|c|d|x[0-9a-f]{2}|[a-z]){0,12}", fullmatch=True),
)


def test_kimis_ids_stay_readable() -> None:
    assert toolids.to_anthropic("bash:0") == "nk-bash-c0"
    assert toolids.to_anthropic("functions.read_file:12") == "nk-functions-dread_file-c12"
    assert toolids.to_anthropic("toolu_01A-b") == "toolu_01A-b"


@properties
@given(ids)
def test_every_id_fits_the_alphabet_of_anthropic_clients(id_: str) -> None:
    assert FITS.fullmatch(toolids.to_anthropic(id_))


@properties
@given(ids.filter(lambda i: len(i.encode()) <= 15))
def test_an_id_comes_back_from_an_anthropic_client(id_: str) -> None:
    assert toolids.to_chat(toolids.to_anthropic(id_)) == id_


@properties
@given(ids)
def test_an_id_that_a_client_was_given_names_the_same_call_from_then_on(id_: str) -> None:
    given_id = toolids.to_anthropic(id_)
    assert toolids.to_anthropic(toolids.to_chat(given_id)) == given_id


def test_a_foreign_id_that_looks_like_ours_stays_as_it_is() -> None:
    for id_ in ("nk-0", "nk-bash-", "nk-a-xff", "nk-a-x3a", "nk_1"):
        assert toolids.to_chat(id_) == id_


@properties
@given(st.lists(ids, unique=True, max_size=10))
def test_two_calls_never_get_one_id(several: list[str]) -> None:
    assert len({toolids.to_anthropic(i) for i in several}) == len(several)


def test_an_id_that_grows_too_long_still_names_its_call() -> None:
    id_ = "mcp__server__" + "x" * 49 + ":1"
    there = toolids.to_anthropic(id_)
    assert FITS.fullmatch(there)
    assert there != toolids.to_anthropic(id_ + "2")
    assert toolids.to_chat(there) == there == toolids.to_anthropic(there)
