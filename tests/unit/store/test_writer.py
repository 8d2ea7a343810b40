"""Jobs that share a commit share nothing else."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import IntegrityError

from runner.errors import BusyError, NotFoundError, TemporaryError
from runner.store import Place
from runner.store.database import open_engine
from runner.store.writer import Writer

DEADLINE = 30.0


class Desk:
    """A writer, its database, and a way to let jobs gather behind one that is held."""

    def __init__(self, engine: Engine, capacity: int = 100) -> None:
        self.engine = engine
        self.writer = Writer(engine, capacity=capacity)
        self.commits = 0

        @event.listens_for(engine, "commit")
        def _count(_c: Connection) -> None:
            self.commits += 1

    async def together(self, *works: Callable[[Connection], object]) -> list[object]:
        """Run these in one batch; what each returned or raised."""
        begun, go = threading.Event(), threading.Event()

        def first(_c: Connection) -> None:
            begun.set()
            assert go.wait(DEADLINE)

        held = asyncio.create_task(self.writer.do(first))
        assert await asyncio.to_thread(begun.wait, DEADLINE)
        jobs = [asyncio.create_task(self.writer.do(work)) for work in works]
        await asyncio.sleep(0)  # each task runs up to its wait
        go.set()
        async with asyncio.timeout(DEADLINE):
            await held
            return await asyncio.gather(*jobs, return_exceptions=True)

    async def names(self) -> list[str]:
        query = text("select name from rows order by name")
        return await self.writer.do(lambda c: [str(n) for n in c.scalars(query)])


@pytest.fixture
async def desk(place: Place) -> AsyncIterator[Desk]:
    made = Desk(open_engine(place))

    def tables(c: Connection) -> None:
        c.execute(text("create table rows (name text primary key, n integer not null default 0)"))
        c.execute(
            text(
                "create table parts (of text not null references rows (name) "
                "deferrable initially deferred)"
            )
        )

    await made.writer.do(tables)
    made.commits = 0
    yield made
    await made.writer.close()
    made.engine.dispose()


def write(name: str) -> Callable[[Connection], str]:
    def work(c: Connection) -> str:
        c.execute(text("insert into rows (name) values (:name)"), {"name": name})
        return name

    return work


async def test_jobs_that_wait_share_a_commit_and_get_each_its_own_result(desk: Desk) -> None:
    names = [f"n{i:02}" for i in range(20)]
    assert await desk.together(*(write(n) for n in names)) == names
    assert desk.commits == 2  # that of the job which was held, and one for all
    assert await desk.names() == names


async def test_a_job_that_fails_takes_back_its_own_changes_only(desk: Desk) -> None:
    def refused(c: Connection) -> None:
        write("half")(c)
        raise NotFoundError("no")

    got = await desk.together(write("a"), refused, write("a"), write("b"))
    assert got[0] == "a"
    assert isinstance(got[1], NotFoundError)
    assert isinstance(got[2], IntegrityError)
    assert got[3] == "b"
    assert await desk.names() == ["a", "b"]


async def test_a_commit_that_fails_fails_every_job_of_it(desk: Desk) -> None:
    def orphan(c: Connection) -> None:  # only the commit finds out
        c.execute(text("insert into parts (of) values ('nobody')"))

    got = await desk.together(write("a"), orphan, write("b"))
    assert [type(e) for e in got] == [IntegrityError] * 3
    assert await desk.names() == []
    assert await desk.writer.do(write("c")) == "c"


async def test_nobody_is_answered_before_the_commit(desk: Desk) -> None:
    held, go = threading.Event(), threading.Event()

    @event.listens_for(desk.engine, "commit")
    def _hold(_c: Connection) -> None:
        held.set()
        assert go.wait(DEADLINE)

    job = asyncio.create_task(desk.writer.do(write("a")))
    assert await asyncio.to_thread(held.wait, DEADLINE)
    done, _ = await asyncio.wait({job}, timeout=0.05)
    assert not done
    go.set()
    assert await job == "a"


async def test_a_caller_that_gave_up_harms_nobody(desk: Desk) -> None:
    gone = asyncio.create_task(desk.writer.do(write("a")))
    await asyncio.sleep(0)
    gone.cancel()
    assert await desk.writer.do(write("b")) == "b"
    assert "b" in await desk.names()


async def test_what_waits_is_bounded_and_closing_does_what_was_taken(tmp_path: Path) -> None:
    desk = Desk(open_engine(tmp_path / "x.db"), capacity=3)
    begun, go = threading.Event(), threading.Event()

    def first(c: Connection) -> None:
        c.execute(text("create table rows (name text)"))
        begun.set()
        assert go.wait(DEADLINE)

    held = asyncio.create_task(desk.writer.do(first))
    assert await asyncio.to_thread(begun.wait, DEADLINE)
    jobs = [asyncio.create_task(desk.writer.do(write(str(i)))) for i in range(5)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(desk.writer.close())
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="closed"):
        await desk.writer.do(write("late"))
    go.set()
    await held
    got = await asyncio.gather(*jobs, return_exceptions=True)
    assert got[:3] == ["0", "1", "2"]
    assert all(isinstance(e, BusyError) and e.retry_after for e in got[3:])
    await closing
    desk.engine.dispose()


async def test_a_full_disk_refuses_what_does_not_fit_and_nothing_else(tmp_path: Path) -> None:
    desk = Desk(open_engine(tmp_path / "x.db"))

    def tables(c: Connection) -> None:
        c.execute(text("create table rows (name text)"))
        c.execute(text("pragma max_page_count = 20"))

    await desk.writer.do(tables)
    got = await desk.together(write("a"), write("x" * 200_000), write("b"))
    assert got[0] == "a"
    assert isinstance(got[1], TemporaryError)
    assert got[1].code == "disk_full"
    assert got[2] == "b"
    assert await desk.names() == ["a", "b"]
    await desk.writer.close()
    desk.engine.dispose()


async def test_two_hosts_that_lock_each_other_out_both_get_through(postgres_url: str) -> None:
    one, other = Desk(open_engine(postgres_url)), Desk(open_engine(postgres_url))
    both = threading.Barrier(2)
    firsts = iter(range(2))

    def tables(c: Connection) -> None:
        c.execute(text("create table rows (name text primary key, n integer)"))
        c.execute(text("insert into rows values ('a', 0), ('b', 0)"))

    await one.writer.do(tables)

    def count(*order: str) -> Callable[[Connection], None]:
        def work(c: Connection) -> None:
            for name in order:
                c.execute(text("update rows set n = n + 1 where name = :name"), {"name": name})
                if next(firsts, None) is not None:
                    both.wait(DEADLINE)  # each holds its first row: only one can go on

        return work

    got = await asyncio.gather(
        one.together(count("a", "b"), lambda _c: "beside"),
        other.together(count("b", "a"), lambda _c: "beside"),
    )
    assert got == [[None, "beside"]] * 2
    rows = await one.writer.do(lambda c: c.execute(text("select name, n from rows")).all())
    assert sorted(map(tuple, rows)) == [("a", 2), ("b", 2)]
    for desk in (one, other):
        await desk.writer.close()
        desk.engine.dispose()
