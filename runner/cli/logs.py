"""``nanokimi logs``: what a group's agent wrote to stderr."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.context import context_of
from runner.errors import NotFoundError
from runner.model import folder_of

TAIL = 64 * 1024
POLL = 0.25


def logs(
    ctx: typer.Context,
    group: Annotated[str, typer.Argument(help="The group's id.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as more comes.")] = False,
) -> None:
    """Show the log of a group's agent (its stderr, over all its sandboxes)."""
    path = context_of(ctx).layout.agent_log(folder_of(group))
    if not path.exists():
        raise NotFoundError(
            f"there is no log of group {group!r}",
            hint="it begins with the group's first turn; `nanokimi groups list` shows the groups",
        )
    _show(path, follow)


def _show(path: Path, follow: bool) -> None:
    at = max(0, path.stat().st_size - TAIL)
    while True:
        size = path.stat().st_size if path.exists() else 0
        if size < at:
            at = 0  # it was rotated
        if size > at:
            with path.open("rb") as f:
                f.seek(at)
                new = f.read(size - at)
            at += len(new)
            sys.stdout.write(new.decode("utf-8", "replace"))
            sys.stdout.flush()
        if not follow:
            return
        time.sleep(POLL)
