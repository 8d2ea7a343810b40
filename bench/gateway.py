"""The model gateway: what it adds to a call, and how many calls one core carries.

Side by side with LiteLLM's proxy, in front of the same upstream. The proxy under measure has one
core for itself; load and upstream share the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import uvloop

from bench import proxies
from bench.finding import Budget, Finding, Skipped, Spread, number
from bench.http import Failed
from bench.load import Door, Took, callers, run, run_calls
from bench.proxies import Proxy
from bench.upstream import CHUNKS, WORD

ADDED_LIMIT, FIRST_LIMIT = 2.0, 3.0  # ms
RATE_RATIO = 8.0
IDLE_LIMIT, GROWTH_LIMIT = 90.0, 1.1
DIRECT = "direct"
FEW, SOME, MANY = 1, 16, 64
PAUSE = 0.25
SETTLE = 0.5


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured; ``seconds`` are of one round of one proxy."""

    calls: int
    streams: int
    rounds: int
    seconds: float
    soak: int


FULL = Amount(calls=400, streams=150, rounds=2, seconds=3.0, soak=20_000)
QUICK = Amount(calls=60, streams=20, rounds=1, seconds=1.0, soak=1_000)


def measure(*, quick: bool) -> list[Finding]:
    """Raises: Skipped: one core only; or LiteLLM is not there, and what was found without it."""
    amount = QUICK if quick else FULL
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Skipped("the gateway and its load need a core each")
    missing = ""
    with contextlib.ExitStack() as stack:
        stack.enter_context(proxies.pinned(cores[1]))
        behind = stack.enter_context(proxies.upstream())
        running = [stack.enter_context(proxies.ours(behind, cores[0]))]
        try:
            running.append(stack.enter_context(proxies.litellm(behind, cores[0])))
        except (Skipped, Failed) as e:
            missing = str(e)
        bench = _Bench(behind, running, amount)
        idle = {p.name: p.resident() for p in running}
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            loop.run(bench.check())
            found = [
                *loop.run(bench.alone(stream=False)),
                *loop.run(bench.alone(stream=True)),
                *(
                    finding
                    for count in (SOME, MANY)
                    for stream in (False, True)
                    for finding in loop.run(bench.together(count, stream=stream))
                ),
                *loop.run(bench.rate(stream=False)),
                *loop.run(bench.rate(stream=True)),
                *loop.run(bench.memory(idle)),
            ]
    if missing:
        raise Skipped(f"LiteLLM: {missing}", but=found)
    return found


class _Bench:
    """``direct``, ours and LiteLLM, always in turn, so that each has the machine's same moments."""

    def __init__(self, behind: Mapping[str, Door], running: list[Proxy], amount: Amount) -> None:
        self._running = running
        self._amount = amount
        self._doors: dict[str, Mapping[str, Door]] = {DIRECT: behind}
        self._doors |= {p.name: p.doors for p in running}
        self._ours, *self._others = [p.name for p in running]

    async def check(self) -> None:
        """Everybody says the whole answer, both ways. Raises: Failed."""
        for name, doors in self._doors.items():
            for stream in (False, True):
                async with callers(doors["fast"], 1, stream=stream) as (caller,):
                    for _ in range(20):  # connections are made, code is warm
                        await caller.ask()
                    if caller.said != WORD * CHUNKS:
                        raise Failed(f"{name} changed the answer: {caller.said[:200]!r}")

    async def alone(self, *, stream: bool) -> list[Finding]:
        """One caller at a service that answers at once: what a single call takes longer.

        One proxy after the other: what one still does when it has answered would delay the next.
        """
        direct: list[Took] = []
        added: dict[str, list[Took]] = {}
        for proxy in self._running:
            await asyncio.sleep(SETTLE)
            async with (
                callers(self._doors[DIRECT]["fast"], 1, stream=stream) as (bare,),
                callers(proxy.doors["fast"], 1, stream=stream) as (through,),
            ):
                mine = added[proxy.name] = []
                for _ in range(self._amount.streams if stream else self._amount.calls):
                    d, t = await bare.ask(), await through.ask()
                    direct.append(d)
                    mine.append(Took(t.first - d.first, t.total - d.total))
        return self._latency(FEW, direct, added, stream=stream)

    async def together(self, count: int, *, stream: bool) -> list[Finding]:
        """Many callers at a service that takes a model's time."""
        direct: list[Took] = []
        added: dict[str, list[Took]] = {name: [] for name in self._doors if name != DIRECT}
        for round_ in range(self._amount.rounds):
            middle = Took(0.0, 0.0)
            for name, doors in self._doors.items():
                await asyncio.sleep(SETTLE)
                async with callers(doors["paced"], count, stream=stream) as asking:
                    took, _ = await run(asking, self._amount.seconds, pause=PAUSE, seed=round_)
                if name == DIRECT:
                    direct += took
                    middle = Took(_median(t.first for t in took), _median(t.total for t in took))
                else:
                    added[name] += [
                        Took(t.first - middle.first, t.total - middle.total) for t in took
                    ]
        return self._latency(count, direct, added, stream=stream)

    async def rate(self, *, stream: bool) -> list[Finding]:
        """Calls that end in a second, where everybody always asks; and what each costs the core."""
        rates: dict[str, list[float]] = {name: [] for name in self._doors}
        costs: dict[str, list[float]] = {p.name: [] for p in self._running}
        for _ in range(self._amount.rounds):
            for name, doors in self._doors.items():
                await asyncio.sleep(SETTLE)
                spent = {p.name: p.computed() for p in self._running}
                async with callers(doors["fast"], SOME, stream=stream) as asking:
                    took, lasted = await run(asking, self._amount.seconds)
                rates[name].append(len(took) / lasted)
                for proxy in self._running:
                    if proxy.name == name:
                        seconds = proxy.computed() - spent[name]
                        costs[name].append(seconds / len(took) * 1000)
        what = f"streams of {CHUNKS} chunks" if stream else "requests"
        value, cost = Spread.of(rates[self._ours]), Spread.of(costs[self._ours])
        budgets = [
            Budget("ratio", value.median / _median(rates[other]), RATE_RATIO, at_least=True)
            for other in self._others
        ]
        rate_of = [f"{name}: {number(_median(rates[name]))}/s" for name in (*self._others, DIRECT)]
        cost_of = [f"{name}: {number(_median(costs[name]))} ms" for name in self._others]
        return [
            Finding(f"gateway, {what} on one core", value, "/s", "; ".join(rate_of), (*budgets,)),
            Finding(f"gateway, CPU time of one of these {what}", cost, "ms", "; ".join(cost_of)),
        ]

    async def memory(self, idle: Mapping[str, float]) -> list[Finding]:
        """What it holds at the start, and whether more calls make it more."""
        ours, *others = self._running
        door, tenth = ours.doors["fast"], self._amount.soak // 10
        held: list[float] = []
        async with callers(door, SOME, stream=False) as asking:
            for _ in range(10):
                await run_calls(asking, tenth)
                held.append(ours.resident())
        theirs = "; ".join(f"{p.name}: {number(idle[p.name])} MB" for p in others)
        after = "; ".join(f"{p.name}, after fewer calls: {number(p.resident())} MB" for p in others)
        return [
            Finding(
                "gateway, memory when nobody has called",
                Spread.of([idle[ours.name]]),
                "MB",
                theirs,
                (Budget("MB", idle[ours.name], IDLE_LIMIT),),
            ),
            Finding(
                f"gateway, memory over {self._amount.soak:,} more calls",
                Spread.of(held),
                "MB",
                after,
                (Budget("last/first tenth", held[-1] / held[0], GROWTH_LIMIT),),
            ),
        ]

    def _latency(
        self, count: int, direct: list[Took], added: dict[str, list[Took]], *, stream: bool
    ) -> list[Finding]:
        who = "1 caller" if count == FEW else f"{count} callers"
        if not stream:
            limit = ADDED_LIMIT if count == FEW else None
            return [self._added(f"{who}: added to a whole answer", limit, direct, added, _total)]
        limit = FIRST_LIMIT if count == SOME else None
        first, last = (f"{who}: added until a stream's {end}" for end in ("first chunk", "end"))
        return [
            self._added(first, limit, direct, added, _first),
            self._added(last, None, direct, added, _total),
        ]

    def _added(
        self,
        what: str,
        limit: float | None,
        direct: list[Took],
        added: dict[str, list[Took]],
        part: Callable[[Took], float],
    ) -> Finding:
        value = Spread.of([part(t) for t in added[self._ours]])
        theirs = [
            f"{name}: {number(_median(part(t) for t in added[name]))} ms" for name in self._others
        ]
        bare = f"direct takes {number(_median(part(t) for t in direct))} ms"
        budgets = () if limit is None else (Budget("added p50", value.median, limit),)
        return Finding(f"gateway, {what}", value, "ms", "; ".join([*theirs, bare]), budgets)


def _first(took: Took) -> float:
    return took.first


def _total(took: Took) -> float:
    return took.total


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)
