"""Drives the real agent as a process with raw JSON lines, as a host would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.demo.provider import DemoProvider

DEADLINE = 30.0


@contextlib.asynccontextmanager
async def home_at(root: Path, **settings: Any) -> AsyncIterator[Home]:
    """A home whose model is a demo provider of its own."""
    async with DemoProvider() as provider:
        yield Home(root, provider, **settings)


class Refused(Exception):
    """The agent answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.data: dict[str, Any] = error.get("data") or {}


@dataclass
class Home:
    """A home directory as the host projects it, and a workspace."""

    root: Path
    provider: DemoProvider
    model: str = "kimi-for-coding"
    context: int = 262_144
    loop: str = "max_retries_per_step = 2"
    extra: str = ""

    def __post_init__(self) -> None:
        self.kimi = self.root / "home" / ".kimi"
        self.workspace = self.root / "workspace"
        (self.kimi / "credentials").mkdir(parents=True)
        self.workspace.mkdir()
        self.write_config()
        self.write_token(self.provider.issue_token())

    def write_config(self) -> None:
        (self.kimi / "config.toml").write_text(f"""
default_model = "m"
default_thinking = true
[models.m]
provider = "p"
model = "{self.model}"
max_context_size = {self.context}
[providers.p]
type = "kimi"
base_url = "{self.provider.base_url}"
oauth = {{ storage = "file", key = "oauth/kimi-code" }}
[loop_control]
{self.loop}
{self.extra}
""")

    def write_token(self, token: str) -> None:
        path = self.kimi / "credentials" / "kimi-code.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"access_token": token}))
        fresh.replace(path)

    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.kimi.parent),
            "PATH": os.environ["PATH"],
            "NANOKIMI_RUN_DIR": str(self.root),
        }

    def journal(self) -> Path:
        (path,) = (self.kimi / "sessions").glob("*/journal.jsonl")
        return path


@dataclass
class Agent:
    """One agent process; ``updates`` holds every ``session/update`` in order."""

    process: asyncio.subprocess.Process
    updates: list[dict[str, Any]] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    _waiting: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _next: int = 0

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            frame = json.loads(line)
            async with self._changed:
                self.lines.append(line)
                if frame.get("method") == "session/update":
                    self.updates.append(frame["params"]["update"])
                self._changed.notify_all()
            if "id" in frame and "method" not in frame:
                future = self._waiting.pop(frame["id"])
                if future.done():
                    continue
                if "error" in frame:
                    future.set_exception(Refused(frame["error"]))
                else:
                    future.set_result(frame["result"])
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(EOFError("the agent ended"))
                future.exception()

    def begin(self, method: str, params: object) -> asyncio.Future[Any]:
        self._next += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._next] = future
        self.send({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params})
        return future

    def send(self, frame: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(frame).encode() + b"\n")

    async def call(self, method: str, params: object) -> Any:
        async with asyncio.timeout(DEADLINE):
            return await self.begin(method, params)

    async def initialize(self) -> dict[str, Any]:
        return await self.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})

    async def new(self, home: Home) -> str:
        await self.initialize()
        got = await self.call("session/new", {"cwd": str(home.workspace), "mcpServers": []})
        return str(got["sessionId"])

    async def resume(self, home: Home, session: str, method: str = "session/resume") -> None:
        await self.initialize()
        await self.call(
            method, {"sessionId": session, "cwd": str(home.workspace), "mcpServers": []}
        )

    def prompt(self, session: str, text: str, turn: str = "") -> asyncio.Future[Any]:
        params: dict[str, Any] = {
            "sessionId": session,
            "prompt": [{"type": "text", "text": text}],
        }
        if turn:
            params["_meta"] = {"nanokimi": {"turn": turn, "group": "g"}}
        self.updates.clear()
        return self.begin("session/prompt", params)

    async def say(self, session: str, text: str, turn: str = "") -> tuple[dict[str, Any], str]:
        """Prompt and wait: the result, and the answer as a host puts it together."""
        async with asyncio.timeout(DEADLINE):
            result = await self.prompt(session, text, turn)
        return result, self.answer()

    def cancel(self, session: str) -> None:
        self.send({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": session}})

    def answer(self) -> str:
        """The text of all chunks; a reset drops the text since the step began."""
        kept, step = "", ""
        for update in self.updates:
            if update["sessionUpdate"] != "agent_message_chunk":
                continue
            ours = (update.get("_meta") or {}).get("nanokimi", {})
            if "step" in ours:
                kept, step = kept + step, ""
            step = "" if ours.get("reset") else step + update["content"]["text"]
        return kept + step

    def results(self) -> list[str]:
        """The texts of finished tool calls."""
        return [
            u["content"][0]["content"]["text"]
            for u in self.updates
            if u["sessionUpdate"] == "tool_call_update"
        ]

    async def seen(self, kind: str, holds: Callable[[dict[str, Any]], bool] | None = None) -> None:
        """Wait for an update of this kind."""

        def there() -> bool:
            return any(
                u["sessionUpdate"] == kind and (holds is None or holds(u)) for u in self.updates
            )

        async with asyncio.timeout(DEADLINE), self._changed:
            await self._changed.wait_for(there)


@contextlib.asynccontextmanager
async def running(
    home: Home, *, command: tuple[str, ...] = (sys.executable,), **environment: str
) -> AsyncIterator[Agent]:
    """The agent as a process, gone when the block ends."""
    process = await asyncio.create_subprocess_exec(
        *command,
        "-m",
        "runner.agent",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=home.environment() | environment,
        limit=16 * 1024 * 1024,
    )
    agent = Agent(process)
    reading = asyncio.create_task(agent.read())
    try:
        yield agent
    finally:
        if process.stdin is not None:
            process.stdin.close()  # a clean end takes the tools' processes with it
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()
        await asyncio.wait_for(reading, DEADLINE)


async def until_gone(pid: int) -> None:
    """Wait until a process has ended; a zombie counts as ended."""
    async with asyncio.timeout(DEADLINE):
        while alive(pid):
            await asyncio.sleep(0.01)


async def until_file(path: Path) -> str:
    """Wait for a file that a tool writes, and read it."""
    async with asyncio.timeout(DEADLINE):
        while not path.exists() or not path.read_text():
            await asyncio.sleep(0.01)
    return path.read_text()


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def directive(name: str, **arguments: object) -> str:
    """A line that makes the demo model call a tool."""
    return f"!call {name} {json.dumps(arguments)}"
