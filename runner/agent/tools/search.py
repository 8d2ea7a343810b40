"""Runs the search worker: a pattern that takes forever costs a process, not the agent.

A regular expression can keep Python's lock for hours; only a process of its own can be ended.
"""

from __future__ import annotations

import sys
from pathlib import Path

from runner.agent.tools.tool import Outcome, Room, environment

WORKER = str(Path(__file__).with_name("search_worker.py"))
DEADLINE = 20.0
KEEP = 30_000


async def search(room: Room, path: str, *arguments: str) -> Outcome:
    """Run the worker in the folder ``path`` of the workspace."""
    with room.workspace.folder(path) as folder:
        end = await room.children.run(
            [sys.executable, "-I", "-S", WORKER, *arguments],
            cwd=f"/proc/self/fd/{folder}",
            env=environment(),
            timeout=DEADLINE,
            keep=KEEP,
        )
    if end.exit_code is None:
        text = f"{end.output}[stopped after {DEADLINE:g} s: narrow the pattern or the path]"
        return Outcome(text, failed=True)
    return Outcome(end.output.removesuffix("\n"), failed=end.exit_code != 0)
