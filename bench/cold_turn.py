"""Cold turn: from a message to its first request at the provider, through a new container.

Held against the least that a container costs on the same engine at the same time: ``docker run``
of the same image with a Python that does nothing. ``cold_parts`` says where the time goes.
"""

from __future__ import annotations

import time

from bench.cold_parts import parts
from bench.finding import Budget, Finding, Spread
from bench.rig import IMAGE, docker, engine, host, provider

LIMIT = 1.5
GROUP = "cold"
PAIRS, QUICK_PAIRS = 20, 5


def measure(*, quick: bool) -> list[Finding]:
    """Raises: Skipped."""
    engine()
    pairs = QUICK_PAIRS if quick else PAIRS
    cold: list[float] = []
    bare: list[float] = []
    with provider() as model, host(model, "docker") as serving:
        for pair in range(1 + pairs):
            began = time.monotonic()
            docker("run", "--rm", "--entrypoint", "python3", IMAGE, "-c", "pass")
            ran = time.monotonic() - began
            turn = serving.api.turn(GROUP, "hello")
            asked = model.take()[0]
            serving.api.stop(GROUP)
            if pair:  # the first one makes the group and warms the caches
                bare.append(ran * 1000)
                cold.append((asked["received_at"] - turn.sent) * 1000)
    ratios = Spread.of([c / b for c, b in zip(cold, bare, strict=True)])
    return [
        Finding(
            "cold turn, docker: message sent → request at the provider",
            Spread.of(cold),
            "ms",
            against=f"docker run python3 -c pass: {Spread.of(bare).text('ms')}",
            budgets=(Budget("ratio", ratios.median, LIMIT),),
        ),
        *parts(pairs),
    ]
