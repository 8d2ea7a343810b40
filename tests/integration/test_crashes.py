"""A host killed at each point of a message's way: nothing is lost, doubled, or out of order."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from killpoints import POINTS, KillPoints
from rig import group_path, log_in, write_config
from served import LISTEN, Served, tail

from runner.demo.provider import DemoProvider
from runner.model import folder_of
from runner.settings.layout import Layout

GROUP = "birds"
DEADLINE = 90.0


class Chat:
    """A person who sends until it is accepted, and a supervisor that restarts what was killed."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.killed = 0

    async def watch(self) -> None:
        while True:
            assert await self.served.died() == -9, tail(self.served.log_path)
            self.killed += 1
            await self.served.start()

    async def send(self, number: int, text: str) -> None:
        body = {"text": text, "external_id": f"m{number}"}
        async with asyncio.timeout(DEADLINE), httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    answer = await client.post(
                        f"{self.served.url}{group_path(GROUP)}/messages",
                        json=body,
                        headers={"authorization": f"Bearer {self.served.token}"},
                    )
                except httpx.HTTPError:
                    await asyncio.sleep(0.05)
                    continue
                assert answer.status_code == 202, answer.text
                return

    def query(self, sql: str) -> list[Any]:
        path = f"file:{self.served.layout.database}?mode=ro"
        with closing(sqlite3.connect(path, uri=True, timeout=30)) as db:
            return db.execute(sql).fetchall()

    async def until(self, sql: str, wanted: object) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                while self.query(sql) != wanted:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            found = self.query("SELECT text, state, turn_id FROM messages")
            raise AssertionError(f"{found}\n{tail(self.served.log_path)}") from None


def work(number: int, then: str = "") -> str:
    """A message with an effect that can be counted."""
    return "!call bash " + json.dumps({"command": f"echo {number} >> effects{then}"})


@pytest.mark.parametrize("point", POINTS)
async def test_a_host_killed_here_answers_each_message_once_and_in_order(
    tmp_path: Path, point: str
) -> None:
    layout, kill = Layout(tmp_path / "data"), KillPoints(tmp_path)
    async with DemoProvider() as provider:
        write_config(layout, provider, more=LISTEN)
        log_in(layout, provider)
        served = Served(layout, program=kill.program)
        await served.start()
        chat = Chat(served)
        supervisor = asyncio.create_task(chat.watch())
        try:
            effects = layout.workspace(folder_of(GROUP)) / "effects"
            if "join" in point:
                await chat.send(1, work(1, "; while [ ! -e go ]; do sleep 0.02; done"))
                async with asyncio.timeout(DEADLINE):
                    while not effects.exists():
                        await asyncio.sleep(0.02)
                kill.arm(point)
                await chat.send(2, "!say answer 2")
            else:
                kill.arm(point)
                await chat.send(1, f"{work(1)}\n!say answer 1")
            async with asyncio.timeout(DEADLINE):
                while not chat.killed:
                    await asyncio.sleep(0.02)
            await chat.until("SELECT count(*) FROM messages WHERE state != 'answered'", [(0,)])
            await chat.send(3, f"{work(3)}\n!say answer 3")
            await chat.until("SELECT count(*) FROM messages WHERE state != 'answered'", [(0,)])
            assert not kill.armed(point)
            assert chat.killed == 1
            assert effects.read_text().split() == ["1", "3"]
            texts = [text for (text,) in chat.query("SELECT text FROM turns ORDER BY started_at")]
            first = ["answer 2"] if "join" in point else ["answer 1"]
            assert texts == [*first, "answer 3"]
            ends = "SELECT count(*) FROM events WHERE kind = 'turn.finished'"
            assert chat.query(ends) == [(2,)]
            # Two requests for each turn: nothing was asked again that had been answered.
            assert len(provider.chats()) == 4
            said = [m for m in provider.chats()[-1].json["messages"] if m["role"] == "user"]
            assert [m["content"].count("<message") for m in said] == [1] * len(said)
            assert len(said) == (3 if "join" in point else 2)
        finally:
            supervisor.cancel()
            await asyncio.wait({supervisor})
            await served.stop()
