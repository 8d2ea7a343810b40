"""A host whose groups work all the time, while somebody kills everything it is made of.

Each message of a group asks for a tool with an effect that can be counted, and for an answer with
its number. What was promised is then read from what is left: the store, the workspaces, the
requests that the provider got, and what a bot was told by webhooks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from killpoints import POINTS, KillPoints
from own_engine import OwnEngine
from receiver import DROP, Answer, Receiver
from rig import log_in, write_config
from served import LISTEN, Served, tail

from runner.api.client import group_path
from runner.demo.provider import DemoProvider
from runner.demo.talk import text_of, unframe
from runner.model import folder_of
from runner.settings.layout import Layout

_ENDS = "SELECT turn_id FROM events WHERE group_id = ? AND kind = 'turn.finished' ORDER BY id"
HOST = 'max_containers = 6\nmax_attempts = 50\nidle_timeout = "3s"'


@dataclass
class Verdict:
    """What was promised, counted.

    ``told`` are the turns that a bot heard the end of, ``notes`` what agents said amid turns. Every
    list should be empty.
    """

    asked: int = 0
    answered: int = 0
    told: int = 0
    notes: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    twice_in_prompt: list[str] = field(default_factory=list)
    interrupted: int = 0

    @property
    def broken(self) -> list[str]:
        """Every promise that was not kept."""
        return [
            *self.lost, *self.doubled, *self.disordered, *self.repeated, *self.twice_in_prompt
        ]  # fmt: skip


class Chaos:
    """One data directory, its groups, and the killers.

    Args:
        groups, turns: how many groups say how many things each, and more until every kill of the
            plan has been done. Odd groups do not wait for an answer before they say the next thing.
        seed: chooses what is killed when.
    """

    def __init__(
        self,
        folder: Path,
        provider: DemoProvider,
        engine: OwnEngine,
        receiver: Receiver,
        image: str,
        *,
        groups: int,
        turns: int,
        seed: int,
    ) -> None:
        self.layout = Layout(folder / "data")
        self.provider = provider
        self.engine = engine
        self.receiver = receiver
        self.points = KillPoints(folder)
        self.turns = turns
        self.groups = [f"group {n}" for n in range(groups)]
        self.kills: Counter[str] = Counter()
        self._dice = random.Random(seed)
        self._asked: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._done = asyncio.Event()
        write_config(self.layout, provider, backend="docker", image=image, host=HOST, more=LISTEN)
        log_in(self.layout, provider)
        self.served = Served(
            self.layout, program=self.points.program, env={"DOCKER_HOST": engine.address}
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The host serves, whatever happens to it, until the block ends."""
        await self.served.start()
        keeper = asyncio.create_task(self._keep_alive())
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])
            await self.served.stop()

    async def _keep_alive(self) -> None:
        """What a service manager does."""
        while True:
            await self.served.wait()
            await self.served.start()

    # -- groups ---------------------------------------------------------------------------------

    async def talk(self) -> None:
        """Every group says all it has to say; returns when each message has its end."""
        deadline = 240 + 4.0 * len(self.groups) * self.turns
        try:
            async with asyncio.timeout(deadline), asyncio.TaskGroup() as talks:
                for n, group in enumerate(self.groups):
                    talks.create_task(self._talk(group, ahead=2 * (n % 2)), name=group)
        except TimeoutError:
            told = self.table(self.verdict(), deadline)
            raise AssertionError(f"not in {deadline:g} s:\n{told}\n{self.log}") from None

    async def _talk(self, group: str, *, ahead: int) -> None:
        room = asyncio.Semaphore(1 + ahead)
        async with (
            httpx.AsyncClient(timeout=30, trust_env=False) as client,
            asyncio.TaskGroup() as answers,
        ):
            while self._asked[group] < self.turns or not self._done.is_set():
                await room.acquire()
                if ahead:  # some messages come when the turn before has begun, and join it
                    await asyncio.sleep(self._dice.uniform(0.1, 0.5))
                self._asked[group] += 1
                number = self._asked[group]
                await self._post(client, group, number)
                answer = answers.create_task(self._answer(client, group, number))
                answer.add_done_callback(lambda _: room.release())

    async def _post(self, client: httpx.AsyncClient, group: str, number: int) -> None:
        while (await self._send(client, group, number)).status_code != 202:
            await asyncio.sleep(0.05)

    async def _answer(self, client: httpx.AsyncClient, group: str, number: int) -> None:
        while (answer := await self._send(client, group, number, wait=20)).status_code != 200:
            await asyncio.sleep(0.05)
        assert answer.json()["status"] == "done", f"{group} {number}: {answer.text}"
        self._answered[group] += 1

    async def _send(
        self, client: httpx.AsyncClient, group: str, number: int, wait: int = 0
    ) -> httpx.Response:
        """The message, as often as it takes: its external id makes it one."""
        command = json.dumps({"command": f"echo {number} >> effects; sleep 0.05"})
        note = json.dumps({"text": f"note {number}"})
        body = {
            "text": f"!call bash {command}\n!call send_message {note}\n!say answer {number}",
            "direct": True,
            "external_id": f"{group} {number}",
            "reply_url": self.receiver.url(),
        }
        try:
            return await client.post(
                f"{self.served.url}{group_path(group)}/messages",
                params={"wait": wait} if wait else {},
                json=body,
                headers={"authorization": f"Bearer {self.served.token}"},
            )
        except httpx.HTTPError:
            return httpx.Response(599)  # the host was killed: the next one is on its way

    async def all_told(self) -> None:
        """Wait until nothing is left in the outbox."""
        waiting = "SELECT 1 FROM outbox WHERE state IN ('pending', 'sending')"
        await self._until(lambda: not self._query(waiting), timeout=60.0)

    @property
    def answered(self) -> int:
        return self._answered.total()

    # -- killers --------------------------------------------------------------------------------

    async def kill_host(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.served.send_kill()
        self.kills["host"] += 1

    async def kill_container(self) -> None:
        found = await self.engine.docker("ps", "--quiet", "--filter", "label=nanokimi.install")
        if refs := found.split():
            with contextlib.suppress(AssertionError):  # it ended by itself in between
                await self.engine.docker("kill", self._dice.choice(refs))
                self.kills["container"] += 1

    async def kill_engine(self) -> None:
        await self.engine.kill()
        self.kills["engine"] += 1
        await self.engine.start()

    async def rage(self, *, points: int, engine: int, others: int) -> None:
        """Kill at so many named points, the engine so often, and hosts and containers at random.

        Between two kills something is answered, or some time goes by: else nothing ever is.
        """
        for point in self._dice.sample(POINTS, points):
            self.points.arm(point)
            if await self._until(lambda p=point: not self.points.armed(p), timeout=20.0):
                self.kills[point] += 1
            self.points.disarm(point)  # nothing came there: test_crashes brings each about
            await self._progress(self.answered + 1, timeout=8.0)
        plan = [self.kill_engine] * engine
        plan += [self._dice.choice((self.kill_host, self.kill_container)) for _ in range(others)]
        self._dice.shuffle(plan)
        for kill in plan:
            await self._progress(self.answered + self._dice.randint(1, 3), timeout=6.0)
            await asyncio.sleep(self._dice.uniform(0, 0.6))
            await kill()
        self._done.set()

    async def _progress(self, goal: int, timeout: float) -> None:
        await self._until(lambda: self.answered >= goal, timeout)

    async def _until(self, holds: Callable[[], bool], timeout: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not holds():
                    await asyncio.sleep(0.05)
        return holds()

    # -- the verdict ----------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        v = Verdict(asked=self._asked.total())
        for group in self.groups:
            self._judge_messages(v, group)
            self._judge_effects(v, group)
        self._judge_prompts(v)
        self._judge_webhooks(v)
        return v

    def _judge_messages(self, v: Verdict, group: str) -> None:
        messages = self._query(
            "SELECT external_id, state, turn_id FROM messages WHERE group_id = ? ORDER BY seq",
            group,
        )
        ends = self._query(_ENDS, group)
        numbers = [int(external.rsplit(" ", 1)[1]) for external, _, _ in messages]
        if numbers != list(range(1, self._asked[group] + 1)):
            v.disordered.append(f"{group}: accepted as {numbers}")
        v.answered += sum(state == "answered" for _, state, _ in messages)
        v.lost += [f"{group}: {e} is {state}" for e, state, _ in messages if state != "answered"]
        place = {turn: at for at, (turn,) in enumerate(ends)}
        if len(place) != len(ends):
            v.doubled.append(f"{group}: a turn was answered twice")
        order = [place[turn] for _, state, turn in messages if state == "answered"]
        if order != sorted(order):
            v.disordered.append(f"{group}: answered in the order {order}")
        said = Counter(
            int(n)
            for (text,) in self._query(
                "SELECT text FROM turns WHERE group_id = ? AND state = 'done'", group
            )
            for n in re.findall(r"answer (\d+)", text)
        )
        v.doubled += [
            f"{group}: answer {n} {times} times" for n, times in said.items() if times > 1
        ]

    def _judge_effects(self, v: Verdict, group: str) -> None:
        file = self.layout.root / "groups" / folder_of(group) / "effects"
        done = Counter(file.read_text().split()) if file.exists() else Counter[str]()
        v.repeated += [
            f"{group}: tool {n} ran {times} times" for n, times in done.items() if times > 1
        ]
        v.interrupted += self._asked[group] - len(done)
        told = Counter(
            json.loads(data)["text"]
            for (data,) in self._query(
                "SELECT data FROM events WHERE group_id = ? AND kind = 'message.sent'", group
            )
        )
        v.notes += len(told)
        v.repeated += [f"{group}: {text} sent {t} times" for text, t in told.items() if t > 1]

    def _judge_prompts(self, v: Verdict) -> None:
        """In what the provider was asked last for each group, every message stands once."""
        last: dict[str, Any] = {r.json["prompt_cache_key"]: r.json for r in self.provider.chats()}
        for body in last.values():
            words = [unframe(text_of(m)) for m in body["messages"] if m["role"] == "user"]
            said = Counter(n for text in words for n in re.findall(r"!say answer (\d+)", text))
            v.twice_in_prompt += [
                f"{n} stands {t} times in a prompt" for n, t in said.items() if t > 1
            ]

    def _judge_webhooks(self, v: Verdict) -> None:
        """The bot heard of each turn's end once, and of those of a group in their order."""
        v.disordered += [f"refused by the bot: {why}" for why in self.receiver.violations]
        heard: dict[str, list[str]] = {group: [] for group in self.groups}
        for body in self.receiver.told:
            if body["event"] == "turn.finished":
                heard[body["group"]].append(body["turn_id"])
        for group, turns in heard.items():
            ended = [turn for (turn,) in self._query(_ENDS, group)]
            v.told += len(set(turns))
            v.lost += [f"{group}: the bot never heard of {t}" for t in ended if t not in turns]
            if len(set(turns)) != len(turns):
                v.doubled.append(f"{group}: the bot was told of a turn twice")
            elif turns != ended and set(turns) == set(ended):
                v.disordered.append(f"{group}: the bot was told in another order")

    def _query(self, sql: str, *values: object) -> list[Any]:
        with contextlib.closing(
            sqlite3.connect(f"file:{self.layout.database}?mode=ro", uri=True, timeout=30)
        ) as db:
            return db.execute(sql, values).fetchall()

    def table(self, v: Verdict, seconds: float) -> str:
        """For people: what was done to it, and what came of it."""
        rows = [
            ("turns asked", v.asked),
            *((f"kill -9 of {what}", self.kills[what]) for what in ("host", "container", "engine")),
            *((f"kill -9 of host, {point}", self.kills[point]) for point in POINTS),
            ("messages answered", v.answered),
            ("turns that the bot heard the end of", v.told),
            ("messages amid turns", v.notes),
            ("lost", len(v.lost)),
            ("answered twice", len(v.doubled)),
            ("out of order", len(v.disordered)),
            ("tool effects repeated", len(v.repeated)),
            ("messages repeated to the model", len(v.twice_in_prompt)),
            ("tools cut off before their effect", v.interrupted),
            ("seconds", round(seconds)),
        ]
        return "\n".join(f"{name:<36}{count:>8}" for name, count in rows)

    @property
    def log(self) -> str:
        return tail(self.served.log_path, 60)


async def survive(chaos: Chaos, *, points: int, engine: int, others: int) -> tuple[Verdict, float]:
    """The whole run: talk and rage together, then what is left of it.

    The bot has its bad moments, too.
    """
    began = time.monotonic()
    chaos.receiver.script(DROP, Answer(500), Answer(), DROP, Answer(429, (("retry-after", "1"),)))
    async with chaos.running():
        async with asyncio.TaskGroup() as both:
            both.create_task(chaos.rage(points=points, engine=engine, others=others))
            both.create_task(chaos.talk())
        await chaos.all_told()
    return chaos.verdict(), time.monotonic() - began
