"""Warm turns: what the house adds before the model is asked and after it has spoken.

The model's own time is taken out by the provider's clock, which all processes of a machine share.
Between the turns a request that does nothing goes to the provider, and a page to the disk: what
these take is this machine's own noise, and each turn waits for several of both.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from bench.finding import Budget, Finding, Skipped, Spread, number
from bench.rig import Host, Provider, directory, engine, host, provider

P50_LIMIT, P99_LIMIT = 10.0, 25.0
DISPATCH_LIMIT = 5.0
# A new conversation every now and then: hundreds of turns in one would measure its length.
TURNS_PER_GROUP = 50
PAGE = bytes(4096)
GROUPS, QUICK_GROUPS = 6, 1


def measure(*, quick: bool) -> list[Finding]:
    """Turns of a docker host and of a process host in alternation.

    Raises:
        Skipped: no engine; carries what the process host did.
    """
    backends, no_docker = _backends()
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    dispatched: dict[str, list[float]] = {}
    nothing: list[float] = []
    written: list[float] = []
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(directory()) / "page"
        model = stack.enter_context(provider())
        hosts = {name: stack.enter_context(host(model, name)) for name in backends}
        for conversation in range(QUICK_GROUPS if quick else GROUPS):
            group = f"warm {conversation}"
            for serving in hosts.values():
                serving.api.turn(group, "hello")
            for turn in range(TURNS_PER_GROUP):
                for name, serving in hosts.items():
                    nothing.append(model.answers_in() * 1000)
                    written.append(_durable_write(page) * 1000)
                    one = _one(model, serving, group, f"hello for the {turn}th time")
                    before.setdefault(name, []).append(one.before)
                    after.setdefault(name, []).append(one.after)
                    dispatched.setdefault(name, []).append(one.dispatched)
            for serving in hosts.values():
                serving.api.stop(group)
    against = f"bare request: {_tail(nothing)}; fsync: {_tail(written)}"
    found: list[Finding] = []
    for name in hosts:
        ways = {
            f"warm turn, {name}: message sent → request at the provider": before[name],
            f"warm turn, {name}: provider's last byte → turn.finished": after[name],
        }
        found += [_finding(measure, values, against) for measure, values in ways.items()]
        both = [a + b for a, b in zip(before[name], after[name], strict=True)]
        found.append(Finding(f"warm turn, {name}: both together", Spread.of(both), "ms"))
        value = Spread.of(dispatched[name])
        found.append(
            Finding(
                f"dispatch, {name}: message taken in → its turn is claimed",
                value,
                "ms",
                against,
                budgets=(Budget("p50", value.median, DISPATCH_LIMIT),),
            )
        )
    if no_docker:
        raise Skipped(f"docker: {no_docker}", but=found)
    return found


def _backends() -> tuple[list[str], str]:
    """What can be measured here, and why docker cannot."""
    try:
        engine()
    except Skipped as e:
        return ["process"], str(e)
    return ["docker", "process"], ""


@dataclass(frozen=True, slots=True)
class _One:
    """One turn with one model call: milliseconds before it, after it, and to the turn's claim."""

    before: float
    after: float
    dispatched: float


def _one(model: Provider, serving: Host, group: str, text: str) -> _One:
    model.take()
    turn = serving.api.turn(group, text)
    (asked,) = model.take()
    return _One(
        (asked["received_at"] - turn.sent) * 1000,
        (turn.finished - asked["finished_at"]) * 1000,
        turn.dispatched * 1000,
    )


def _durable_write(page: Path) -> float:
    """Seconds that a page takes to the disk."""
    began = time.monotonic()
    file = os.open(page, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, PAGE)
        os.fsync(file)
    finally:
        os.close(file)
    return time.monotonic() - began


def _tail(values: list[float]) -> str:
    noise = Spread.of(values)
    return f"p50 {number(noise.median)}, p99 {number(noise.p99)} ms"


def _finding(measure: str, values: list[float], against: str) -> Finding:
    value = Spread.of(values)
    return Finding(
        measure,
        value,
        "ms",
        against,
        budgets=(Budget("p50", value.median, P50_LIMIT), Budget("p99", value.p99, P99_LIMIT)),
    )
