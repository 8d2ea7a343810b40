"""Which files of agents there are, on both databases."""

from collections.abc import AsyncIterator

import pytest

from runner.errors import NotFoundError
from runner.model import StoredFile, folder_of
from runner.store import Place, Store, files


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = await Store.open(place)
    for group in ("g", "other"):
        await store.put_group(group)
    yield store
    await store.close()


def made(n: int, group: str = "g", size: int = 10) -> StoredFile:
    return StoredFile(f"file_{group}{n}", group, "turn_1", f"{n}.txt", "text/plain", size, float(n))


async def add(store: Store, *new: StoredFile) -> None:
    for file in new:
        await store.transact(lambda c, file=file: files.add(c, file))  # type: ignore[misc]


async def listed(store: Store, group: str = "g") -> list[str]:
    found = await store.read(lambda c: files.page(c, group, 100))
    return [f.id for f in found]


async def test_files_are_listed_newest_first_and_only_in_their_group(store: Store) -> None:
    await add(store, made(1), made(2), made(3, "other"))
    assert await listed(store) == ["file_g2", "file_g1"]
    assert await store.read(lambda c: files.need(c, "g", "file_g1")) == made(1)
    with pytest.raises(NotFoundError):
        await store.read(lambda c: files.need(c, "other", "file_g1"))
    with pytest.raises(NotFoundError):
        await store.read(lambda c: files.page(c, "nobody", 100))


async def test_the_oldest_make_room_and_no_more_than_needed(store: Store) -> None:
    await add(store, made(1), made(2), made(3), made(4, "other"))
    assert await store.transact(lambda c: files.make_room(c, "g", 10, 40)) == []
    assert await store.transact(lambda c: files.make_room(c, "g", 15, 40)) == ["file_g1"]
    assert await listed(store) == ["file_g3", "file_g2"]
    assert await listed(store, "other") == ["file_other4"]


async def test_old_files_expire_over_all_groups(store: Store) -> None:
    await add(store, made(1), made(2, "other"), made(3))
    first = await store.transact(lambda c: files.expire(c, 3.0, 1))
    assert first == [(folder_of("g"), "file_g1")]
    second = await store.transact(lambda c: files.expire(c, 3.0, 10))
    assert second == [(folder_of("other"), "file_other2")]
    assert await store.transact(lambda c: files.expire(c, 3.0, 10)) == []
    assert await listed(store) == ["file_g3"]


async def test_bytes_without_a_row_are_told_from_those_with_one(store: Store) -> None:
    await add(store, made(1))
    found = await store.read(lambda c: files.known(c, ["file_g1", "file_g2"]))
    assert found == {"file_g1"}


async def test_a_deleted_group_leaves_no_rows(store: Store) -> None:
    await add(store, made(1))
    await store.delete_group("g")
    assert await store.read(lambda c: files.known(c, ["file_g1"])) == set()
