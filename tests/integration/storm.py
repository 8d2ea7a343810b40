"""Hosts on one login, groups that talk all the time, and what goes wrong in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rig import log_in, write_config
from served import LISTEN, Served, tail

from runner.api.client import group_path
from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout

LIFETIME = 2.0
DEADLINE = 90.0
KINDS = ("open", "isolated")
# Two tools and an answer: three model requests in each turn, over a good part of a token's life.
WORK = "\n".join(['!call bash {"command": "sleep 0.1"}'] * 2)

# Runs the product, and breaks it where the test has ordered so: the clock, and the moments before
# and after a renewed token is put on disk.
BREAKABLE = """
import os, re, signal, sys, time
from pathlib import Path

clock, orders = Path(sys.argv[1]), Path(sys.argv[2])
del sys.argv[1:3]
now, now_ns, open_, replace_ = time.time, time.time_ns, os.open, os.replace

def ahead():
    try:
        return float(clock.read_text())
    except (OSError, ValueError):
        return 0.0

def die_if(order):
    try:
        (orders / order).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

def open(path, *more, **named):
    name = os.path.basename(path) if isinstance(path, (str, os.PathLike)) else ""
    if re.match(r"\\.kimi-code\\.json\\.[0-9a-f]{32}\\.", name):
        die_if("before-write")
    return open_(path, *more, **named)

def replace(source, target, **named):
    token = os.path.basename(target) == "kimi-code.json"
    if token:
        die_if("before-rename")
    replace_(source, target, **named)
    if token:
        die_if("after-rename")

time.time = lambda: now() + ahead()
time.time_ns = lambda: now_ns() + int(ahead() * 1e9)
os.open, os.replace = open, replace
from runner.cli.main import main
main(sys.argv[1:])
"""


@dataclass(frozen=True, slots=True)
class Tally:
    """What has happened so far; two of them make the line of one phase."""

    answered: int
    refreshes: int
    replayed: int
    lost: int
    told_to_wait: int

    def since(self, before: Tally) -> Tally:
        return Tally(
            self.answered - before.answered,
            self.refreshes - before.refreshes,
            self.replayed - before.replayed,
            self.lost - before.lost,
            self.told_to_wait - before.told_to_wait,
        )


class Storm:
    """Two hosts whose credentials directory is the same, and groups at both.

    Args:
        each: how many groups there are of each kind, open and isolated.
    """

    def __init__(self, folder: Path, provider: DemoProvider, each: int) -> None:
        self.provider = provider
        self.clock = folder / "clock"
        self.hosts: list[Served] = []
        self.orders: list[Path] = []
        self.groups: dict[str, Served] = {}
        self.answered: Counter[str] = Counter()
        self.lines: list[tuple[str, Tally]] = []
        self._posted: Counter[str] = Counter()
        self._over = asyncio.Event()
        program = folder / "breakable.py"
        program.write_text(BREAKABLE)
        for name in ("one", "two"):
            layout = Layout(folder / name)
            orders = folder / f"orders-{name}"
            orders.mkdir()
            mine = [f"{name}-{kind}-{n}" for n in range(each // 2) for kind in KINDS]
            write_config(
                layout,
                provider,
                host=f"max_containers = {2 * each}\nsteer = false",  # one turn for each message
                more=LISTEN
                + "".join(f'\n[groups.{g}]\nnetwork = "open"' for g in mine if "open" in g),
            )
            served = Served(layout, program=(str(program), str(self.clock), str(orders)))
            self.hosts.append(served)
            self.orders.append(orders)
            self.groups |= dict.fromkeys(mine, served)
        first, second = (host.layout for host in self.hosts)
        first.credentials.mkdir(mode=0o700)
        second.credentials.symlink_to(first.credentials)

    @property
    def credentials(self) -> Path:
        return self.hosts[0].layout.credentials

    @contextlib.asynccontextmanager
    async def raging(self) -> AsyncIterator[None]:
        """The hosts serve, and every group talks until the block ends."""
        log_in(self.hosts[0].layout, self.provider)
        try:
            await asyncio.gather(*(host.start() for host in self.hosts))
            async with asyncio.TaskGroup() as talks:
                for group in self.groups:
                    talks.create_task(self._talk(group), name=group)
                yield
                self._over.set()
        finally:
            await asyncio.gather(*(host.stop() for host in self.hosts))

    # -- groups ---------------------------------------------------------------------------------

    async def _talk(self, group: str) -> None:
        while not self._over.is_set():
            await self.say(group)

    async def say(self, group: str) -> None:
        """Send one message, whatever happens to the host, and wait for its one answer."""
        self._posted[group] += 1
        number = self._posted[group]
        body = {
            "text": f"{WORK}\n!say answer {number}",
            "direct": True,
            "external_id": f"{group} {number}",
        }
        served = self.groups[group]
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            while True:
                try:
                    answer = await client.post(
                        f"{served.url}{group_path(group)}/messages?wait=20",
                        json=body,
                        headers={"authorization": f"Bearer {served.token}"},
                    )
                except httpx.HTTPError:
                    await asyncio.sleep(0.1)  # the host was killed: the next one is on its way
                    continue
                if answer.status_code == 200:
                    break
                if answer.status_code != 202:
                    await asyncio.sleep(0.1)
        assert answer.json()["status"] == "done", f"{group} {number}: {answer.text}"
        self.answered[group] += 1

    async def progress(self, turns: int = 1) -> None:
        """Wait until every group has been answered so often from now on."""
        goal = {group: self.answered[group] + turns for group in self.groups}
        await self.until(
            lambda: all(self.answered[g] >= n for g, n in goal.items()), "every group goes on"
        )

    async def until(self, holds: Any, what: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                while not holds():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logs = "\n\n".join(tail(host.log_path) for host in self.hosts)
            raise AssertionError(f"not in time: {what}\n{dict(self.answered)}\n{logs}") from None

    # -- what is counted ------------------------------------------------------------------------

    def tally(self) -> Tally:
        return Tally(
            answered=self.answered.total(),
            refreshes=self.provider.refreshes,
            replayed=self.provider.replayed_refresh_tokens,
            lost=sum(host.log.count("oauth.login_lost") for host in self.hosts),
            told_to_wait=sum(self.told_to_wait().values()),
        )

    def told_to_wait(self) -> Counter[str]:
        """How often each chat was told that its messages wait for a login."""
        return Counter(group for group, _ in self.waits())

    def waits(self) -> list[tuple[str, dict[str, Any]]]:
        """What the chats were told, each in its order."""
        failed = "SELECT group_id, data FROM events WHERE kind = 'turn.failed' ORDER BY id"
        events = [(group, json.loads(data)) for group, data in self.query(failed)]
        return [(group, data) for group, data in events if data.get("held")]

    def missing(self) -> list[str]:
        """Groups whose messages were not answered each once and in their order."""
        given: dict[str, list[int]] = {group: [] for group in self.groups}
        for group, text in self.query(
            "SELECT group_id, text FROM turns WHERE state = 'done' ORDER BY rowid"
        ):
            given[group] += [int(n) for n in re.findall(r"answer (\d+)", text)]
        return [
            f"{group}: sent {self._posted[group]}, answered {numbers}"
            for group, numbers in given.items()
            if numbers != list(range(1, self._posted[group] + 1))
        ]

    def query(self, sql: str) -> list[Any]:
        """The same question to both stores."""
        found: list[Any] = []
        for host in self.hosts:
            with contextlib.closing(
                sqlite3.connect(f"file:{host.layout.database}?mode=ro", uri=True, timeout=30)
            ) as db:
                found += db.execute(sql).fetchall()
        return found

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[list[Tally]]:
        """Note what happens inside the block; the list holds it afterwards."""
        before, result = self.tally(), []
        yield result
        result.append(self.tally().since(before))
        self.lines.append((name, result[0]))

    def table(self) -> str:
        head = ("", "answered", "renewals", "replayed", "lost", "told to wait")
        rows = [
            (name, t.answered, t.refreshes, t.replayed, "yes" if t.lost else "no", t.told_to_wait)
            for name, t in self.lines
        ]
        return "\n".join(
            f"{r[0]:<44}" + "".join(f"{c!s:>13}" for c in r[1:]) for r in (head, *rows)
        )

    # -- what a person does ---------------------------------------------------------------------

    async def log_in_again(self) -> None:
        """``nanokimi login`` while the hosts serve."""
        root = str(self.hosts[0].layout.root)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "runner", "--data", root, "login"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(DEADLINE):
            _, said = await process.communicate()
        assert process.returncode == 0, said.decode()


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of its own at ``path``, where root may mount one; else nothing."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, check=False)  # only root may
    try:
        yield
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def no_room(path: Path) -> Iterator[None]:
    """Inside the block nothing can be written to ``path``: its disk is full, or it is read-only."""
    ballast = path / "ballast"
    if path.is_mount():
        for size in (65_536, 1):
            with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as f:
                while True:
                    f.write(b"x" * size)
    else:
        path.chmod(0o500)
    try:
        yield
    finally:
        path.chmod(0o700)
        ballast.unlink(missing_ok=True)
