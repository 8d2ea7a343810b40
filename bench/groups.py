"""What many groups cost that nobody writes to: the time of an accept, and the host's memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from pathlib import Path

import uvloop

from bench.accepts import accept
from bench.finding import Budget, Finding, Spread
from bench.memory import anonymous
from bench.rig import Host, directory, host, provider
from runner.host.lock import serving
from runner.store import Store

FEW, MANY = 10, 10_000
RATIO_LIMIT = 1.2
ACCEPTS, QUICK_ACCEPTS = 2_000, 400
MEMORY_GROUPS, QUICK_MEMORY_GROUPS = 10_000, 2_000
BYTES_LIMIT = 2048.0
AT_ONCE = 500


def measure(*, quick: bool) -> list[Finding]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, directory() as path:
        few, many = runner.run(_latencies(path, QUICK_ACCEPTS if quick else ACCEPTS))
    ratio = many.median / few.median
    with provider() as model, host(model, "process") as serving_host:
        memory = _memory(serving_host, QUICK_MEMORY_GROUPS if quick else MEMORY_GROUPS)
    return [
        Finding(
            f"one accept at a time, {MANY:,} groups",
            many,
            "ms",
            against=f"{FEW} groups: {few.text('ms')}",
            budgets=(Budget("ratio", ratio, RATIO_LIMIT),),
        ),
        Finding(
            "host memory of an idle registered group",
            memory,
            "bytes",
            budgets=(Budget("bytes", memory.median, BYTES_LIMIT),),
        ),
    ]


async def _latencies(path: Path, count: int) -> tuple[Spread, Spread]:
    """Milliseconds of accepts into stores with few and with many groups, in alternation."""
    numbers = itertools.count(1)
    stores = {groups: await Store.open(path / f"{groups}.db") for groups in (FEW, MANY)}
    try:
        for groups, store in stores.items():
            for first in range(0, groups, AT_ONCE):
                names = range(first, min(first + AT_ONCE, groups))
                await asyncio.gather(*(store.put_group(f"group {n}") for n in names))
        taken: dict[int, list[float]] = {FEW: [], MANY: []}
        for _ in range(count):
            number = next(numbers) * 7919  # not one group after the other
            for groups, store in stores.items():
                began = time.perf_counter()
                await accept(store, number, groups)
                taken[groups].append(1000 * (time.perf_counter() - began))
    finally:
        for store in stores.values():
            await store.close()
    return Spread.of(taken[FEW]), Spread.of(taken[MANY])


def _memory(at: Host, count: int) -> Spread:
    """Bytes of the host for each of ``count`` groups, in five steps; the first warms it up."""
    told = serving(at.layout.host_lock)
    assert told is not None
    step = count // 5
    each: list[float] = []
    with contextlib.closing(at.client()) as client:
        client.put_groups(f"warm {n}" for n in range(step))
        before = anonymous(told.pid)
        for round_ in range(5):
            client.put_groups(f"idle {round_} {n}" for n in range(step))
            now = anonymous(told.pid)
            each.append((now - before) / step)
            before = now
    return Spread.of([sum(each) / len(each)])
