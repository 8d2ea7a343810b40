"""A host whose database is locked or away while an agent works."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from database_server import PostgresServer, locked
from rig import TOKEN, Rig, rig
from structlog.testing import capture_logs

from runner.model import MessageState
from runner.store import sqlite

# A turn that works until the test lets it end.
WORK = '!call bash {"command": "while [ ! -e go ]; do sleep 0.05; done"}\n!say worked'
DEADLINE = 60.0


def let_go(r: Rig, folder: str) -> None:
    (r.layout.workspace(folder) / "go").touch()


async def refused(r: Rig, text: str) -> dict[str, Any]:
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as c:
        answer = await c.post(f"{r.url}/api/groups/birds/messages", json={"text": text})
    assert answer.status_code == 503
    error: dict[str, Any] = answer.json()["error"]
    assert error["hint"]
    return error


async def seen(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not there():
            await asyncio.sleep(0.02)


async def outage(r: Rig, begin: Callable[[], object], end: Callable[[], object]) -> dict[str, Any]:
    """A turn ends while the database is away; what a message was refused with meanwhile."""
    asked = asyncio.create_task(r.ask("birds", WORK))
    await r.until("birds", "tool.started")
    folder = (await r.host.store.group("birds")).folder
    with capture_logs() as logs:
        begin()
        error = await refused(r, "!say refused")
        let_go(r, folder)
        await seen(lambda: any(entry["event"] == "turn.not_written" for entry in logs))
        end()
        async with asyncio.timeout(DEADLINE):
            assert await asked == "worked"
    # The agent answered from its journal: neither the tool nor the model was asked again.
    assert len(r.provider.chats()) == 2
    assert await r.ask("birds", "!say after") == "after"
    history = await r.host.store.messages("birds")
    assert [m.text for m in history] == [WORK, "!say after"]
    assert {m.state for m in history} == {MessageState.ANSWERED}
    kinds = [e["kind"] for e in await r.events("birds")]
    assert kinds.count("turn.finished") == 2
    assert not r.host.died.is_set()
    return error


async def test_a_lock_on_the_database_refuses_messages_and_loses_no_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOCK_WAIT", 1.0)
    async with rig(tmp_path) as r:
        with ExitStack() as held:
            lock = partial(held.enter_context, locked(r.layout.database))
            error = await outage(r, lock, held.close)
        assert error["code"] == "store_locked"


async def test_a_database_server_that_restarts_loses_no_turn(
    tmp_path: Path, postgres: PostgresServer, postgres_url: str
) -> None:
    async with rig(tmp_path, store_url=postgres_url) as r:
        error = await outage(r, postgres.stop, postgres.start)
        assert error["code"] == "store_unavailable"
