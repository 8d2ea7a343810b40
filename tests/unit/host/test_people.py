from collections.abc import AsyncIterator

import pytest

from runner.errors import ConflictError, NotFoundError, PermanentError
from runner.host.people import FRESH, People, check_person_id, decide_role, is_allowed
from runner.model import Role
from runner.settings.schema import Settings
from runner.store import Place, Store

CONFIG = {
    "models": {"k": {"provider": "p", "model": "kimi-k2.6"}},
    "providers": {"p": {"base_url": "https://example.com"}},
    "default_model": "k",
}


def settings(**tables: object) -> Settings:
    return Settings.model_validate({**CONFIG, **tables})


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = await Store.open(place)
    yield store
    await store.close()


@pytest.mark.parametrize(
    ("configured", "stored", "expected"),
    [
        (None, None, Role.MEMBER),
        (None, Role.ADMIN, Role.ADMIN),
        (Role.ADMIN, None, Role.ADMIN),
        (Role.ADMIN, Role.MEMBER, Role.MEMBER),
        (Role.MEMBER, Role.BLOCKED, Role.BLOCKED),
        (Role.BLOCKED, Role.OWNER, Role.BLOCKED),
        (Role.OWNER, Role.BLOCKED, Role.OWNER),
    ],
)
def test_a_role_of_the_group_comes_before_the_config_but_for_its_owners_and_blocked(
    configured: Role | None, stored: Role | None, expected: Role
) -> None:
    assert decide_role("ada", configured, stored, Role.MEMBER) is expected


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        (Role.OWNER, Role.MEMBER),
        (Role.ADMIN, Role.MEMBER),
        (Role.MEMBER, Role.MEMBER),
        (Role.BLOCKED, Role.BLOCKED),
    ],
)
def test_nobody_is_at_most_a_member(default: Role, expected: Role) -> None:
    assert decide_role("", None, None, default) is expected
    assert decide_role("", Role.OWNER, Role.OWNER, default) is expected


@pytest.mark.parametrize(
    ("group", "allowed"),
    [("team-a", True), ("team-", True), ("Team-a", False), ("ops", True), ("my team-a", False)],
)
def test_the_allowlist_holds_ids_and_patterns(group: str, allowed: bool) -> None:
    assert is_allowed(group, ("team-*", "ops"), registered=False) is allowed


def test_an_id_with_the_signs_of_a_pattern_allows_itself() -> None:
    assert is_allowed("room[1]", ("room[1]",), registered=False)


def test_a_registered_group_and_an_empty_list_let_in() -> None:
    assert is_allowed("x", ("team-*",), registered=True)
    assert is_allowed("x", (), registered=False)


@pytest.mark.parametrize(
    "person",
    [
        "tg:4711\u200b",
        "tg:\u202e4711",
        "tg:4711\n",
        " tg:4711",
        "tg:4711\u00a0",
        "a\x1b[31m",
        "",
        "\ufeff",
        "x" * 257,
        "a\u2028b",
        "\ud800",
    ],
)
def test_an_id_that_looks_like_another_one_is_refused(person: str) -> None:
    with pytest.raises(PermanentError) as refused:
        check_person_id(person)
    assert refused.value.code == "bad_member_id"


@pytest.mark.parametrize(
    "person", ["tg:4711", "ada@example.org", "Äda Lovelace", "名前", "a/b=c", "."]
)
def test_ids_of_platforms_are_taken(person: str) -> None:
    check_person_id(person)


async def test_a_role_holds_from_the_next_message_on(store: Store) -> None:
    people = People(store, settings)
    await store.register_group("g")
    assert await people.admit("g", "ada") is Role.MEMBER
    await people.give_role("g", "ada", Role.ADMIN)
    assert await people.admit("g", "ada") is Role.ADMIN
    assert await people.admit("other", "ada") is Role.MEMBER
    await people.give_role("g", "ada", Role.BLOCKED)
    with pytest.raises(PermanentError) as refused:
        await people.admit("g", "ada")
    assert refused.value.code == "sender_blocked"
    await people.take_role("g", "ada")
    assert await people.admit("g", "ada") is Role.MEMBER


async def test_another_hosts_change_is_seen_soon(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("runner.host.people.time.monotonic", lambda: now)
    ours, theirs = People(store, settings), People(store, settings)
    await store.register_group("g")
    assert await ours.admit("g", "ada") is Role.MEMBER
    await theirs.give_role("g", "ada", Role.ADMIN)
    now += FRESH
    assert await ours.admit("g", "ada") is Role.ADMIN


async def test_what_is_remembered_of_senders_is_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.host.people.CACHED", 10)
    people = People(store, settings)
    for n in range(50):
        await people.admit("g", f"p{n}")
    assert len(people._seen) == 10


async def test_the_operator_is_an_owner_everywhere(store: Store) -> None:
    people = People(store, lambda: settings(people={"default_role": "blocked"}))
    assert await people.admit("g", "terminal", operator=True) is Role.OWNER
    with pytest.raises(PermanentError):
        await people.admit("g", "terminal")


async def test_the_config_has_the_last_word_on_owners_and_blocked(store: Store) -> None:
    roles = {"boss": "owner", "troll": "blocked", "ada": "admin"}
    people = People(store, lambda: settings(people={"roles": roles}))
    await store.register_group("g")
    with pytest.raises(ConflictError) as refused:
        await people.give_role("g", "troll", Role.MEMBER)
    assert refused.value.code == "role_from_config"
    await people.give_role("g", "ada", Role.MEMBER)
    await people.give_role("g", "eve", Role.ADMIN)
    assert await people.roles("g") == {
        "ada": (Role.MEMBER, True),
        "boss": (Role.OWNER, False),
        "eve": (Role.ADMIN, True),
        "troll": (Role.BLOCKED, False),
    }


async def test_a_groups_own_table_comes_before_that_of_all(store: Store) -> None:
    table = settings(
        people={"roles": {"ada": "owner", "eve": "blocked"}},
        groups={"g": {"roles": {"ada": "member", "eve": "member"}}},
    )
    people = People(store, lambda: table)
    assert await people.admit("g", "ada") is Role.MEMBER
    assert await people.admit("g", "eve") is Role.MEMBER
    assert await people.admit("other", "ada") is Role.OWNER


async def test_without_auto_create_a_group_must_be_registered_and_the_list_does_not_do_it(
    store: Store,
) -> None:
    table = settings(host={"auto_create": False, "allowed_groups": ["team-*"]})
    people = People(store, lambda: table)
    with pytest.raises(NotFoundError):
        await people.admit("team-a", "ada")
    await store.register_group("team-a")
    people.forget("team-a")
    assert await people.admit("team-a", "ada") is Role.MEMBER


async def test_a_group_that_a_message_made_is_no_longer_served_when_the_list_leaves_it_out(
    store: Store,
) -> None:
    table = settings(host={"allowed_groups": ["team-*"]})
    people = People(store, lambda: table)
    await store.put_group("old")
    with pytest.raises(PermanentError) as refused:
        await people.admit("old", "ada")
    assert refused.value.code == "group_not_allowed"
    await store.register_group("old")
    people.forget("old")
    assert await people.admit("old", "ada") is Role.MEMBER


async def test_a_role_needs_a_group_and_a_person(store: Store) -> None:
    people = People(store, settings)
    with pytest.raises(NotFoundError):
        await people.give_role("nowhere", "ada", Role.ADMIN)
    await store.register_group("g")
    with pytest.raises(NotFoundError):
        await people.take_role("g", "ada")
    with pytest.raises(PermanentError):
        await people.give_role("g", "ada\0", Role.ADMIN)


async def test_a_shown_name_that_counts_as_an_id_can_be_blocked_whatever_it_holds(
    store: Store,
) -> None:
    people = People(store, settings)
    await store.register_group("g")
    await people.give_role("g", "troll \u200d", Role.BLOCKED)
    with pytest.raises(PermanentError):
        await people.admit("g", "troll \u200d")


async def test_the_people_of_a_group_are_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.store.members.MAX_MEMBERS", 2)
    people = People(store, settings)
    await store.register_group("g")
    for person in ("a", "b", "a"):
        await people.give_role("g", person, Role.BLOCKED)
    with pytest.raises(ConflictError) as refused:
        await people.give_role("g", "c", Role.BLOCKED)
    assert refused.value.code == "too_many_members"


async def test_roles_go_with_their_group(store: Store) -> None:
    people = People(store, settings)
    await store.register_group("g")
    await people.give_role("g", "ada", Role.ADMIN)
    await store.delete_group("g")
    people.forget("g")
    await store.register_group("g")
    assert await people.roles("g") == {}


def test_only_an_admin_group_manages_others(store: Store) -> None:
    people = People(store, lambda: settings(groups={"ops": {"admin": True}}))
    people.check_may_manage("ops", "birds")
    people.check_may_manage("birds", "birds")
    with pytest.raises(PermanentError) as refused:
        people.check_may_manage("birds", "ops")
    assert refused.value.code == "not_admin_group"
