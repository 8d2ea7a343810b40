from __future__ import annotations

from runner.gateway.caching import references
from runner.gateway.caching.references import References


def test_a_cache_is_released_when_its_last_conversation_has_moved_on() -> None:
    r = References()
    assert r.use("one", "a") == r.use("one", "a") == r.use("two", "a") == []
    assert r.use("one", "b") == []
    assert r.use("two", "b") == ["a"]


def test_a_conversation_that_alternates_keeps_both() -> None:
    r = References()
    assert r.use("one", "a") == []
    assert r.use("one", "b") == ["a"]
    for key in "abab":
        assert r.use("one", key) == []


def test_even_one_that_alternates_a_lot_holds_few() -> None:
    r = References()
    keys = [str(n) for n in range(references.MAX_LEFT)]
    for key in keys:
        r.use("one", key)
    released = [gone for key in keys for gone in r.use("one", key)]
    assert len(released) >= len(keys) - references.MAX_HELD - 1


def test_conversations_of_a_removed_group_are_over() -> None:
    r = References()
    r.use("group:x\n1", "a")
    r.use("group:x\n2", "b")
    r.use("group:xy\n1", "b")
    assert r.forget("group:x\n") == ["a"]
    assert r.forget("group:x\n") == []
    assert r.forget("group:xy\n") == ["b"]


def test_conversations_are_bounded() -> None:
    r = References()
    for n in range(references.MAX_CONVERSATIONS):
        assert r.use(str(n), f"key {n}") == []
    r.use("0", "key 0")  # used again: the next one is the oldest
    assert r.use("one more", "k") == ["key 1"]
