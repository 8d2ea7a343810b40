"""Claude Code and Kimi Code CLI as they are on npm, through the gateway to the strict provider.

They are set up as ``docs/gateway.md`` tells users to. Part of a run only with
``NANOKIMI_CLIENTS=1`` (``make clients`` sets it). The first run installs them; after that no
network is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import acp
import pytest
from acp import schema
from filelock import FileLock
from rig import Rig, rig

from runner.api.serving import serving
from runner.demo.records import Record, Recording, Records
from runner.gateway.routes import gateway_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
INSTALLER = ROOT / ".ci" / "clients"
MANUAL = ROOT / "docs" / "gateway.md"
INSTALL_WAIT = 240.0
CANNOT_INSTALL = 3
DEADLINE = 60.0
DEFAULT_URL = "http://127.0.0.1:8420"
KEY = "gw-clients-key"
# The first request of a session ends with notes that a client writes by itself. The model follows
# the last thing it is told, so the work is asked for in the second turn.
GREETING = "!say hello"
CALL = '!think I will look.\n!call Bash {"command": "cat notes.txt"}\n!say It says: {last}'
NOTES = "the heron nests at mill pond"


@pytest.fixture(scope="session")
def clients() -> Mapping[str, Path]:
    """The installed programs: ``claude``, ``kimi`` and the ``node`` for it."""
    if os.environ.get("NANOKIMI_CLIENTS") != "1":
        pytest.skip("real clients: set NANOKIMI_CLIENTS=1, or run make clients")
    lock = Path(tempfile.gettempdir()) / f"nanokimi-test-clients-{os.getuid()}.lock"
    with FileLock(lock, timeout=INSTALL_WAIT):
        done = subprocess.run(
            [INSTALLER], check=False, capture_output=True, text=True, timeout=INSTALL_WAIT
        )
    if done.returncode == CANNOT_INSTALL:
        pytest.skip("real clients: " + " ".join(done.stderr.splitlines()[-2:]))
    assert done.returncode == 0, done.stderr
    return {path.name: path for path in map(Path, done.stdout.split())}


@dataclass
class Desk:
    """A user's machine: a home, a directory to work in, and a gateway whose requests are kept."""

    r: Rig
    url: str
    seen: Records
    home: Path
    work: Path
    env: dict[str, str]
    strays: list[str]

    def upstream(self) -> list[Any]:
        """What the provider was asked, in order."""
        return [record.json for record in self.r.provider.chats()]


@pytest.fixture
async def desk(tmp_path: Path, clients: Mapping[str, Path]) -> AsyncIterator[Desk]:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (work / "notes.txt").write_text(NOTES + "\n")
    seen, strays = Records(), []
    more = f'[gateway]\nkeys = [{{key = "{KEY}", name = "clients"}}]'
    async with rig(tmp_path, more=more) as r, trap(strays) as proxy:
        app = gateway_app(lambda: r.host.models.gateway, lambda: r.host.settings.gateway.keys)
        async with serving(Recording(app, seen), "127.0.0.1", 0) as url:
            env = {
                "PATH": f"{clients['node'].parent}:{os.environ['PATH']}",
                "HOME": str(home),
                "LANG": "C.UTF-8",
                "HTTP_PROXY": proxy,
                "HTTPS_PROXY": proxy,
                "NO_PROXY": "127.0.0.1",
                "NODE_USE_ENV_PROXY": "1",
            }
            yield Desk(r, url, seen, home, work, env, strays)


@contextlib.asynccontextmanager
async def trap(strays: list[str]) -> AsyncIterator[str]:
    """A proxy that lets nothing through and notes what was wanted."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        strays.append((await reader.readline()).decode("latin-1").strip())
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"


async def test_claude_code_works_with_tools_and_keeps_its_thinking(
    desk: Desk, clients: Mapping[str, Path]
) -> None:
    for name, value in re.findall(r"^export (\w+)=(\S.*)$", documented("Claude Code", desk), re.M):
        desk.env[name] = KEY if name == "ANTHROPIC_AUTH_TOKEN" else value
    claude = [str(clients["claude"]), "--print", "--output-format", "json"]
    await output_of(desk, [*claude, GREETING])
    answer = json.loads(
        await output_of(desk, [*claude, "--continue", "--allowedTools", "Bash", "--", CALL])
    )
    assert answer["result"] == f"It says: {NOTES}"
    assert answer["num_turns"] == 2
    assert answer["usage"]["cache_read_input_tokens"] > 0
    assert [r.path for r in desk.seen.all()] == ["/v1/messages"] * 3
    assert_all_went_well(desk)
    assert_a_tool_round_trip(desk.upstream())


async def test_kimi_code_cli_works_with_tools_and_keeps_its_thinking(
    desk: Desk, clients: Mapping[str, Path]
) -> None:
    config = documented("Kimi Code CLI", desk)
    (desk.home / "config.toml").write_text(config.replace("…", KEY))
    desk.env |= {
        "KIMI_CODE_HOME": str(desk.home),
        "KIMI_DISABLE_TELEMETRY": "1",
        "KIMI_CODE_NO_AUTO_UPDATE": "1",
    }
    # One prompt and out, as a script uses it.
    await output_of(desk, [str(clients["kimi"]), "--prompt", GREETING])
    printed = len(desk.upstream())
    # And driven as an editor does.
    user = Editor()
    async with (
        asyncio.timeout(DEADLINE),
        acp.spawn_agent_process(user, str(clients["kimi"]), "acp", env=desk.env, cwd=desk.work) as (
            agent,
            _,
        ),
    ):
        await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
        session = await agent.new_session(cwd=str(desk.work), mcp_servers=[])
        for words in (GREETING, CALL):
            user.text = ""
            answer = await agent.prompt(
                session_id=session.session_id, prompt=[acp.text_block(words)]
            )
            assert answer.stop_reason == "end_turn"
    assert user.text.startswith("It says: ")
    assert NOTES in user.text
    assert {r.path for r in desk.seen.all()} == {"/v1/chat/completions"}
    assert_all_went_well(desk)
    assert_a_tool_round_trip(desk.upstream()[printed:])


def documented(heading: str, desk: Desk) -> str:
    """The example that users find below a heading, for the gateway of this test."""
    found = re.search(rf"^## {heading}\n.*?```\w+\n(.*?)```", MANUAL.read_text(), re.S | re.M)
    assert found
    assert DEFAULT_URL in found[1]
    return found[1].replace(DEFAULT_URL, desk.url)


class Editor(acp.Client):
    """Says yes to everything, and puts the answer together."""

    def __init__(self) -> None:
        self.text = ""

    async def session_update(self, session_id: str, update: Any, **kwargs: Any) -> None:
        if isinstance(update, schema.AgentMessageChunk):
            assert isinstance(update.content, schema.TextContentBlock)
            self.text += update.content.text

    async def request_permission(
        self, options: Sequence[schema.PermissionOption], *args: Any, **kwargs: Any
    ) -> schema.RequestPermissionResponse:
        allowed = next(o for o in options if o.kind == "allow_once")
        return schema.RequestPermissionResponse(
            outcome=schema.AllowedOutcome(outcome="selected", option_id=allowed.option_id)
        )


async def output_of(desk: Desk, command: Sequence[str]) -> str:
    """What a program that ends well prints."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=desk.work,
        env=desk.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (out, err, told(desk.seen.all()))
    return out.decode()


def assert_all_went_well(desk: Desk) -> None:
    """Nobody was refused anything, and nobody was asked but the gateway."""
    assert {r.status for r in desk.seen.all()} == {200}, told(desk.seen.all())
    assert {r.status for r in desk.r.provider.chats()} == {200}, told(desk.r.provider.chats())
    assert desk.strays == []


def assert_a_tool_round_trip(asked: Sequence[Any]) -> None:
    """The last request carries the call, its result and the reasoning; all before it is as it was.

    A prefix that changes from request to request would never be found in the provider's cache.
    """
    *_, before, last = asked
    call, result = last["messages"][-2:]
    assert call["reasoning_content"] == "I will look."
    assert call["tool_calls"][0]["function"]["name"] == "Bash"
    assert result["role"] == "tool"
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
    assert NOTES in result["content"]
    assert last["messages"][:-2] == before["messages"]
    assert last["tools"] == before["tools"]
    assert last["prompt_cache_key"] == before["prompt_cache_key"]


def told(records: Sequence[Record]) -> list[str]:
    return [f"{r.method} {r.path} {r.status}" for r in records]
