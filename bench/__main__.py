"""``python -m bench``: run the measures and show what they found.

A missed budget is news, not a failure: the exit code is 0 unless a measure crashed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from typing import Protocol

from rich.console import Console

from bench import accepts, agent_start, churn, cold_turn, gateway, groups, memory, relay, warm_turn
from bench.finding import Finding, Skipped
from bench.proxies import install_litellm
from bench.report import Outcome, as_json, as_table


class Measure(Protocol):
    """``quick`` takes fewer samples. Raises: Skipped."""

    def __call__(self, *, quick: bool) -> list[Finding]: ...


MEASURES: dict[str, Measure] = {
    "cold_turn": cold_turn.measure,
    "warm_turn": warm_turn.measure,
    "memory": memory.measure,
    "agent_start": agent_start.measure,
    "accepts": accepts.measure,
    "groups": groups.measure,
    "churn": churn.measure,
    "relay": relay.measure,
    "gateway": gateway.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=MEASURES, metavar="NAME",
        help=f"run this one; may be repeated ({', '.join(MEASURES)})",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer samples, rougher numbers")
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # so that what we started ends too
        signal.signal(number, lambda got, _frame: sys.exit(128 + got))
    notes = Console(stderr=True, highlight=False)
    if "gateway" in (given.only or ()):  # it is large: nobody gets it without asking
        install_litellm(notes.print)
    outcomes: dict[str, Outcome] = {}
    for name in given.only or MEASURES:
        with notes.status(f"measuring {name}"):
            outcomes[name] = _run(MEASURES[name], quick=given.quick)
    if given.json:
        print(as_json(outcomes))
    else:
        as_table(outcomes)
    return 1 if any(o.crashed for o in outcomes.values()) else 0


def _run(measure: Measure, *, quick: bool) -> Outcome:
    try:
        return Outcome(measure(quick=quick))
    except Skipped as e:
        return Outcome(e.but, skipped=str(e))
    except Exception as e:
        traceback.print_exc()
        return Outcome(crashed=f"{type(e).__name__}: {e}")


if __name__ == "__main__":
    sys.exit(main())
