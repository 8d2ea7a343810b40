"""Warm turns: what the house adds before the model is asked and after it has spoken.

The model's own time is taken out by the provider's clock, which all processes of a machine share.
Between the turns a request that does nothing goes to the provider: what it takes is this machine's
own noise, which no turn can be free of.
"""

from __future__ import annotations

import contextlib

from bench.finding import Budget, Finding, Skipped, Spread, number
from bench.rig import Host, Provider, engine, host, provider

P50_LIMIT, P99_LIMIT = 10.0, 25.0
# A new conversation every now and then: hundreds of turns in one would measure its length.
TURNS_PER_GROUP = 50
GROUPS, QUICK_GROUPS = 6, 1


def measure(*, quick: bool) -> list[Finding]:
    """Turns of a docker host and of a process host in alternation.

    Raises:
        Skipped: no engine; carries what the process host did.
    """
    backends, no_docker = _backends()
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    nothing: list[float] = []
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(provider())
        hosts = {name: stack.enter_context(host(model, name)) for name in backends}
        for conversation in range(QUICK_GROUPS if quick else GROUPS):
            group = f"warm {conversation}"
            for serving in hosts.values():
                serving.api.turn(group, "hello")
            for turn in range(TURNS_PER_GROUP):
                for name, serving in hosts.items():
                    nothing.append(model.answers_in() * 1000)
                    asked, told = _one(model, serving, group, f"hello for the {turn}th time")
                    before.setdefault(name, []).append(asked)
                    after.setdefault(name, []).append(told)
            for serving in hosts.values():
                serving.api.stop(group)
    noise = Spread.of(nothing)
    against = f"bare request: p50 {number(noise.median)} ms, p99 {number(noise.p99)} ms"
    found: list[Finding] = []
    for name in hosts:
        ways = {
            f"warm turn, {name}: message sent → request at the provider": before[name],
            f"warm turn, {name}: provider's last byte → turn.finished": after[name],
        }
        found += [_finding(measure, values, against) for measure, values in ways.items()]
        both = [a + b for a, b in zip(before[name], after[name], strict=True)]
        found.append(Finding(f"warm turn, {name}: both together", Spread.of(both), "ms"))
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


def _one(model: Provider, serving: Host, group: str, text: str) -> tuple[float, float]:
    """One turn of one model call: the milliseconds before it and after it."""
    model.take()
    turn = serving.api.turn(group, text)
    (asked,) = model.take()
    return (asked["received_at"] - turn.sent) * 1000, (turn.finished - asked["finished_at"]) * 1000


def _finding(measure: str, values: list[float], against: str) -> Finding:
    value = Spread.of(values)
    return Finding(
        measure,
        value,
        "ms",
        against,
        budgets=(Budget("p50", value.median, P50_LIMIT), Budget("p99", value.p99, P99_LIMIT)),
    )
