"""``nanokimi logs``: what a group's agent wrote to stderr, with the time of each line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from runner.cli.context import context_of
from runner.cli.output import visible
from runner.errors import NotFoundError
from runner.model import folder_of
from runner.sandbox.agentlog import older_file, split_line

TAIL = 64 * 1024
POLL = 0.25
LONGEST = 64 * 1024
"""A line that is longer is shown in pieces."""


def logs(
    ctx: typer.Context,
    group: Annotated[str, typer.Argument(help="The group's id.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as more comes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the log of a group's agent (its stderr, over all its sandboxes)."""
    path = context_of(ctx).layout.agent_log(folder_of(group))
    if not path.exists():
        raise NotFoundError(
            f"there is no log of group {group!r}",
            hint="it begins with the group's first turn; `nanokimi groups list` shows the groups",
        )
    form = as_object if as_json else as_text
    for line in last_lines(path, wait=_pause if follow else None):
        typer.echo(form(*split_line(line)))


def as_text(at: datetime | None, text: str) -> str:
    """For people: the time here. What an agent wrote cannot steer a terminal."""
    return visible(text) if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S} {visible(text)}"


def as_object(at: datetime | None, text: str) -> str:
    """For scripts: ``time`` is ISO 8601 in UTC; null in a line that has none."""
    stamp = None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": stamp, "text": text}, ensure_ascii=False)


def last_lines(path: Path, *, wait: Callable[[], None] | None = None) -> Iterator[str]:
    """The end of a log, which may lie in its older file.

    With ``wait``, which is called when there is no more, it goes on for ever, also over files that
    are turned over.
    """
    with ExitStack() as held:
        file = held.enter_context(path.open("rb"))
        half = _end_of(file, TAIL)
        if len(half) < TAIL and older_file(path).exists():
            with older_file(path).open("rb") as older:
                half = _whole_lines(_end_of(older, TAIL - len(half))) + half
        while True:
            *lines, half = half.split(b"\n")
            yield from map(_decoded, lines)
            if wait is None:
                break
            if len(half) > LONGEST:
                yield _decoded(half)
                half = b""
            wait()
            half += file.read()
            if _turned_over(path, file):
                half = _whole_lines(half + file.read())  # what came before it was
                held.close()
                file = held.enter_context(path.open("rb"))
                half += file.read()
        if half:
            yield _decoded(half)


def _end_of(file: BinaryIO, size: int) -> bytes:
    """At most the last ``size`` bytes, from the beginning of a line."""
    skipped = os.fstat(file.fileno()).st_size - size
    if skipped <= 0:
        return file.read()
    file.seek(skipped - 1)
    return file.read().partition(b"\n")[2]


def _whole_lines(data: bytes) -> bytes:
    """A line that goes on in the next file begins there with a time of its own."""
    return data if not data or data.endswith(b"\n") else data + b"\n"


def _turned_over(path: Path, file: BinaryIO) -> bool:
    try:
        return not os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:  # just now; or the group was removed
        return False


def _decoded(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _pause() -> None:
    time.sleep(POLL)
