"""Messages accepted a second, each on disk before it is answered.

Held against what the disk and SQLite give at best: one row, one commit, WAL, ``synchronous=FULL``,
in a file beside the store's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench.finding import Budget, Finding, Spread
from bench.rig import Host, directory, host, provider
from runner.model import Event, Message
from runner.store import Store

RATE_LIMIT, RATIO_LIMIT = 1000.0, 0.5
CALLERS = 16
GROUPS = 200
ROUNDS, QUICK_ROUNDS = 12, 4
PER_ROUND = 500
TEXT = "a chat message of the usual length, with a question in it"
TRIGGER = "@nobody"  # messages wait as context: no turn begins


def measure(*, quick: bool) -> list[Finding]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with directory() as path:
        raw, store = _beside_raw(path, rounds)
    with provider() as model, host(model, "process", trigger=TRIGGER) as serving:
        over_http = [_over_http(serving) for _ in range(1 + rounds // 2)][1:]
    ratios = Spread.of([s / r for s, r in zip(store, raw, strict=True)])
    value = Spread.of(store)
    return [
        Finding(
            f"durable accepts, store, {CALLERS} callers",
            value,
            "/s",
            against=f"sqlite3, one row a commit: {Spread.of(raw).text('/s')}",
            budgets=(
                Budget("ratio", ratios.median, RATIO_LIMIT, at_least=True),
                Budget("/s", value.median, RATE_LIMIT, at_least=True),
            ),
        ),
        Finding(f"durable accepts, HTTP, {CALLERS} callers", Spread.of(over_http), "/s"),
    ]


def _beside_raw(path: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Rates of raw commits and of the store, round by round in alternation; the first warms up."""
    numbers = itertools.count(1)
    raw: list[float] = []
    stored: list[float] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        store = runner.run(Store.open(path / "nanokimi.db"))
        database = _open_raw(path / "raw.db")
        try:
            for _ in range(1 + rounds):
                raw.append(_commit(database))
                stored.append(runner.run(_accept(store, numbers)))
        finally:
            database.close()
            runner.run(store.close())
    return raw[1:], stored[1:]


def _open_raw(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, at REAL, text TEXT)")
    return database


def _commit(database: sqlite3.Connection) -> float:
    began = time.monotonic()
    for _ in range(PER_ROUND):
        database.execute("INSERT INTO rows (at, text) VALUES (?, ?)", (time.time(), TEXT))
    return PER_ROUND / (time.monotonic() - began)


async def _accept(store: Store, numbers: Iterator[int]) -> float:
    async def caller() -> None:
        for _ in range(PER_ROUND // CALLERS):
            number = next(numbers)
            group = f"group {number % GROUPS}"
            message = Message(f"msg_{number}", group, 0, TEXT, "Ada", created_at=time.time())
            event = Event(number, group, "message.accepted", {"message_id": message.id})
            await store.accept(message, 100_000, event)

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(CALLERS):
            tasks.create_task(caller())
    return PER_ROUND // CALLERS * CALLERS / (time.monotonic() - began)


def _over_http(serving: Host) -> float:
    def caller(first: int) -> None:
        client = serving.client()
        for number in range(first, PER_ROUND, CALLERS):
            client.post(f"group {number % GROUPS}", TEXT)
        client.close()

    with concurrent.futures.ThreadPoolExecutor(CALLERS) as threads:
        began = time.monotonic()
        list(threads.map(caller, range(CALLERS)))
        return PER_ROUND / (time.monotonic() - began)
