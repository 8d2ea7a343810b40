"""Shows findings: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.finding import Finding, Skipped
from bench.rig import engine

PIPED_WIDTH = 140
_COLOURS = {"within": "green", "missed": "red"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one measure: findings, or why there are none."""

    findings: Sequence[Finding] = ()
    skipped: str = ""
    crashed: str = ""


def as_table(outcomes: Mapping[str, Outcome]) -> None:
    """Print every finding with its budget, then what was left out."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measure", max_width=40)
    table.add_column("median (p10 to p90)", max_width=28)
    table.add_column("against", max_width=36)
    table.add_column("budget", max_width=22)
    table.add_column("verdict", no_wrap=True)
    for outcome in outcomes.values():
        for finding in outcome.findings:
            colour = _COLOURS.get(finding.verdict, "dim")
            table.add_row(
                finding.measure,
                finding.value.text(finding.unit),
                finding.against,
                "\n".join(b.text() for b in finding.budgets),
                f"[{colour}]{finding.verdict}[/]",
            )
    console.print(table)
    for name, outcome in outcomes.items():
        if outcome.skipped:
            console.print(f"{name}: skipped, {outcome.skipped}", markup=False)
        if outcome.crashed:
            console.print(f"{name}: crashed, {outcome.crashed}", markup=False)
    console.print(machine(), markup=False)


def as_json(outcomes: Mapping[str, Outcome]) -> str:
    return json.dumps(
        {
            "machine": machine(),
            "measures": {
                name: {
                    "findings": [f.as_json() for f in outcome.findings],
                    "skipped": outcome.skipped,
                    "crashed": outcome.crashed,
                }
                for name, outcome in outcomes.items()
            },
        },
        indent=2,
    )


def machine() -> str:
    """The shape of this machine in a few words."""
    try:
        docker = f"Docker {engine()}"
    except Skipped:
        docker = "no Docker engine"
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {docker}"
