import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from runner.calls import DAY, Call, Outcome
from runner.errors import TemporaryError
from runner.store import Store
from runner.store.books import Books
from runner.store.ledger import Ledger, Span

ALL = Span(0.0)
DEADLINE = 30


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "nanokimi.db")
    yield store
    await store.close()


def call(cost: int = 1, at: float = 1e9) -> Call:
    return Call(at=at, outcome=Outcome.OK, group="team", cost=cost)


@asynccontextmanager
async def running(books: Books, keep: float = 1e12) -> AsyncIterator[None]:
    task = asyncio.create_task(books.run(lambda: keep, time.time))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def until_written(books: Books) -> None:
    async with asyncio.timeout(DEADLINE):
        while books.waiting:
            await asyncio.sleep(0.01)


async def fill_disk(store: Store, *, full: bool) -> None:
    """A limit on the file's pages: SQLite then says what it says on a full disk."""

    def work(c: Connection) -> None:
        pages = c.exec_driver_sql("PRAGMA page_count").scalar()
        c.exec_driver_sql(f"PRAGMA max_page_count = {pages if full else 10**6}")

    await store.transact(work)


async def test_booked_calls_are_written_in_the_background(store: Store) -> None:
    ledger = Ledger(store)
    books = Books(ledger)
    async with running(books):
        for n in range(1200):
            books.book(call(cost=n))
        await until_written(books)
    total = await ledger.total(ALL)
    assert (total.calls, total.cost, books.lost) == (1200, sum(range(1200)), 0)


async def test_what_was_booked_is_on_disk_after_a_flush(store: Store) -> None:
    books = Books(Ledger(store))
    books.book(call())
    await books.flush()
    assert (await Ledger(store).total(ALL)).calls == 1


async def test_the_end_writes_what_still_waits(store: Store) -> None:
    books = Books(Ledger(store))
    async with running(books):
        books.book(call())
    await books.close()
    assert ((await Ledger(store).total(ALL)).calls, books.lost) == (1, 0)


async def test_a_full_queue_counts_what_it_loses_and_never_blocks(store: Store) -> None:
    books = Books(Ledger(store), capacity=3)
    for n in range(5):
        books.book(call(cost=n))
    assert (books.waiting, books.lost) == (3, 2)
    await books.flush()
    assert (await Ledger(store).total(ALL)).cost == 0 + 1 + 2


async def test_a_full_disk_loses_no_call_and_books_none_twice(store: Store) -> None:
    books = Books(Ledger(store))
    await fill_disk(store, full=True)
    for _ in range(2000):
        books.book(call())
    with pytest.raises(TemporaryError):
        await books.flush()
    assert books.waiting
    await fill_disk(store, full=False)
    await books.flush()
    assert (await Ledger(store).total(ALL)).calls == 2000


async def test_the_background_goes_on_after_the_disk_was_full(store: Store) -> None:
    books = Books(Ledger(store))
    await fill_disk(store, full=True)
    for _ in range(2000):
        books.book(call())
    async with running(books):
        with pytest.raises(TemporaryError):
            await books.flush()
        await fill_disk(store, full=False)
        await until_written(books)
    assert (await Ledger(store).total(ALL)).calls == 2000


async def test_what_cannot_be_written_at_the_end_is_counted_as_lost(store: Store) -> None:
    books = Books(Ledger(store))
    await fill_disk(store, full=True)
    for _ in range(2000):
        books.book(call())
    await books.close()
    written = (await Ledger(store).total(ALL)).calls
    assert books.lost == 2000 - written > 0


async def test_a_cancelled_flush_books_no_call_twice(store: Store) -> None:
    books = Books(Ledger(store))
    for _ in range(3000):
        books.book(call())
    flush = asyncio.create_task(books.flush())
    async with asyncio.timeout(DEADLINE):
        while books.waiting == 3000:
            await asyncio.sleep(0)
    flush.cancel()
    await asyncio.wait([flush])
    assert flush.cancelled()
    await asyncio.gather(books.flush(), books.flush())
    assert (await Ledger(store).total(ALL)).calls == 3000


async def test_calls_older_than_they_are_kept_are_forgotten(store: Store) -> None:
    ledger = Ledger(store)
    now = time.time()
    await ledger.write([call(at=now - 50 * DAY), call(at=now - 39 * DAY)])
    books = Books(ledger)
    async with running(books, keep=40 * DAY):
        books.book(call(at=now))
        await until_written(books)
    assert (await ledger.total(ALL)).calls == 2
