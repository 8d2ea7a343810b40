"""What is asked all the time costs the same after months as on the first day."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy import event as event_hooks

from runner.store import Store, command_turns, queue


@pytest.mark.parametrize(
    "look",
    [
        queue.count_unanswered,
        functools.partial(queue.groups_with_work, host="h"),
        functools.partial(command_turns.unfinished, host="h"),
    ],
    ids=["unanswered", "work", "commands"],
)
async def test_what_is_open_is_found_without_reading_all_that_ever_was(
    tmp_path: Path, look: Callable[[Connection], object]
) -> None:
    """Months of messages stand in the tables, and these questions are asked all the time."""
    store = await Store.open(tmp_path / "nanokimi.db")

    def plan(c: Connection) -> str:
        asked: list[tuple[str, Any]] = []

        def note(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            asked.append((statement, values))

        event_hooks.listen(c, "before_cursor_execute", note)
        look(c)
        event_hooks.remove(c, "before_cursor_execute", note)
        lines: list[str] = []
        for statement, values in asked:
            rows = c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            lines += [str(r[3]) for r in rows]
        return "\n".join(lines)

    found = await store.read(plan)
    await store.close()
    assert re.search(r"messages_open|turns_by_end", found), found
    assert not re.search(r"SCAN (messages|turns)$", found, re.M), found
