"""Messages accepted a second, each on disk before it is answered, on SQLite and PostgreSQL.

Held against what the database gives at best: one row of the same size, one commit, one caller, with
the same care for the disk, in a table of its own beside the store's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvloop

from bench.finding import Budget, Finding, Skipped, Spread
from bench.postgres import database
from bench.rig import Host, directory, host, provider
from runner.model import Event, Message
from runner.store import Place, Store

RATE_LIMIT, RATIO_LIMIT = 1000.0, 0.5
CALLERS = 64
HTTP_CALLERS = 16
GROUPS = 200
ROUNDS, QUICK_ROUNDS = 12, 4
PER_ROUND = 1024
TEXT = "a chat message of the usual length, with a question in it"
ROW = "x" * 400  # what a message and its event have in their columns
TRIGGER = "@nobody"  # messages wait as context: no turn begins


def measure(*, quick: bool) -> list[Finding]:
    """Raises: Skipped: PostgreSQL is not installed."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with directory() as path, contextlib.closing(_sqlite(path / "raw.db")) as raw:
        found = _held_against("sqlite", path / "nanokimi.db", raw.execute, "?", rounds)
    with provider() as model, host(model, "process", trigger=TRIGGER) as serving:
        over_http = [_over_http(serving) for _ in range(1 + rounds // 2)][1:]
    found.append(
        Finding(f"durable accepts, HTTP, {HTTP_CALLERS} callers", Spread.of(over_http), "/s")
    )
    try:
        with database() as url:
            import psycopg

            with psycopg.connect(url, autocommit=True) as bare:
                bare.execute(_TABLE.replace("INTEGER", "SERIAL"))
                found += _held_against("postgresql", url, bare.execute, "%s", rounds)
    except Skipped as e:
        raise Skipped(str(e), but=found) from None
    return found


_TABLE = "CREATE TABLE rows (id INTEGER PRIMARY KEY, at REAL, text TEXT)"


def _sqlite(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(_TABLE)
    return database


def _held_against(
    name: str, place: Place, execute: Callable[..., object], mark: str, rounds: int
) -> list[Finding]:
    """Rates of bare commits and of the store, in alternation; the first round warms up."""
    statement = f"INSERT INTO rows (at, text) VALUES ({mark}, {mark})"
    numbers = itertools.count(1)
    bare: list[float] = []
    stored: list[float] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        store = runner.run(Store.open(place))
        try:
            for _ in range(1 + rounds):
                bare.append(_commit(execute, statement))
                stored.append(runner.run(_accept(store, numbers)))
        finally:
            runner.run(store.close())
    ratios = Spread.of([s / b for s, b in zip(stored[1:], bare[1:], strict=True)])
    value = Spread.of(stored[1:])
    budgets = [Budget("ratio", ratios.median, RATIO_LIMIT, at_least=True)]
    if isinstance(place, Path):  # a server may be far away
        budgets.append(Budget("/s", value.median, RATE_LIMIT, at_least=True))
    return [
        Finding(
            f"durable accepts, store on {name}, {CALLERS} callers",
            value,
            "/s",
            against=f"one row a commit: {Spread.of(bare[1:]).text('/s')}",
            budgets=tuple(budgets),
        )
    ]


def _commit(execute: Callable[..., object], statement: str) -> float:
    began = time.monotonic()
    for _ in range(PER_ROUND):
        execute(statement, (time.time(), ROW))
    return PER_ROUND / (time.monotonic() - began)


async def _accept(store: Store, numbers: Iterator[int]) -> float:
    async def caller() -> None:
        for _ in range(PER_ROUND // CALLERS):
            await accept(store, next(numbers), GROUPS)

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(CALLERS):
            tasks.create_task(caller())
    return PER_ROUND / (time.monotonic() - began)


async def accept(store: Store, number: int, groups: int) -> None:
    """Write a message, one of those of ``groups`` groups in turn, and its event."""
    group = f"group {number % groups}"
    message = Message(f"msg_{number}", group, 0, TEXT, "Ada", created_at=time.time())
    event = Event(number, group, "message.accepted", {"message_id": message.id})
    await store.accept(message, 100_000, event)


def _over_http(serving: Host) -> float:
    def caller(first: int) -> None:
        client = serving.client()
        for number in range(first, PER_ROUND, HTTP_CALLERS):
            client.post(f"group {number % GROUPS}", TEXT)
        client.close()

    with concurrent.futures.ThreadPoolExecutor(HTTP_CALLERS) as threads:
        began = time.monotonic()
        list(threads.map(caller, range(HTTP_CALLERS)))
        return PER_ROUND / (time.monotonic() - began)
