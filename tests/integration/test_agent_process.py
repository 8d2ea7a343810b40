"""The agent as a process: its descriptors, its children, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_client import (
    DEADLINE,
    Agent,
    Home,
    Refused,
    directive,
    home_at,
    running,
    until_file,
    until_gone,
)

# A process that leaves its session, its parent and its environment behind, and writes its pid.
DETACHED = "env -i setsid setsid sh -c 'echo $$ > grandchild; exec sleep 600' & "


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with home_at(tmp_path) as home:
        yield home


async def grandchild(home: Home) -> int:
    return int(await until_file(home.workspace / "grandchild"))


async def test_cancel_ends_the_whole_tree_of_a_tool(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        prompt = agent.prompt(session, directive("bash", command=DETACHED + "sleep 600"))
        pid = await grandchild(home)
        agent.cancel(session)
        assert (await asyncio.wait_for(prompt, DEADLINE))["stopReason"] == "cancelled"
        await until_gone(pid)
        assert agent.results() == ["cancelled by the user"]
        result, _ = await agent.say(session, "go on")
        assert result["stopReason"] == "end_turn"


async def test_cancel_while_the_model_speaks_keeps_what_was_said(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        prompt = agent.prompt(session, "!slow 0.2\n!say " + "word " * 500)
        await agent.seen("agent_message_chunk")
        agent.cancel(session)
        assert (await asyncio.wait_for(prompt, DEADLINE))["stopReason"] == "cancelled"
        said = agent.answer()
        await agent.say(session, "go on")
    assert said
    assert home.provider.chats()[-1].json["messages"][2]["content"] == said


async def test_a_deadline_ends_the_whole_tree_but_not_an_earlier_server(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        server = "sleep 600 & echo $! > server"
        await agent.say(
            session,
            "\n".join(
                [
                    directive("bash", command=server),
                    directive("bash", command=DETACHED + "sleep 600", timeout=1),
                ]
            ),
        )
        await until_gone(await grandchild(home))
        os.kill(int((home.workspace / "server").read_text()), 0)
        assert "killed: not done after 1 s" in agent.results()[1]


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "EOF"])
async def test_the_agent_ends_cleanly_with_everything_it_started(home: Home, end: str) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        agent.prompt(session, directive("bash", command=DETACHED + "sleep 600"))
        pid = await grandchild(home)
        if end == "EOF":
            assert agent.process.stdin is not None
            agent.process.stdin.close()
        else:
            agent.process.send_signal(getattr(signal, end))
        assert await asyncio.wait_for(agent.process.wait(), 10) == 0
        await until_gone(pid)


async def test_a_gigabyte_of_output_is_read_and_mostly_dropped(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        command = "echo first; head -c 1000000000 /dev/zero | tr '\\0' x; echo; echo last"
        await agent.say(session, directive("bash", command=command))
        (text,) = agent.results()
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
    assert text.startswith("first\n")
    assert "\nlast\n[exit code 0]" in text
    assert "left out" in text
    assert len(text) < 31_000
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 100_000


async def test_a_tool_that_reads_its_input_finds_the_end_of_it(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, directive("bash", command="cat; echo over"))
    assert agent.results() == ["over\n[exit code 0]"]


async def test_a_background_child_does_not_hold_up_the_turn(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, directive("bash", command="sleep 600 & echo started"))
    assert agent.results() == ["started\n[exit code 0]"]


HOSTILE = """
import glob, os
parent = os.getppid()
while open(f"/proc/{parent}/comm").read().strip() in ("sh", "bash"):
    parent = int(open(f"/proc/{parent}/stat").read().rsplit(")", 1)[1].split()[1])
opened = 0
for path in glob.glob(f"/proc/{parent}/fd/*") + [f"/proc/{parent}/fd/{n}" for n in range(32)]:
    for mode in (os.O_WRONLY, os.O_RDONLY):
        try:
            fd = os.open(path, mode | os.O_NONBLOCK)
        except OSError:
            continue
        opened += 1
        try:
            os.write(fd, b'{"jsonrpc":"2.0","method":"forged"}\\n')
        except OSError:
            pass
try:
    open(f"/proc/{parent}/mem", "rb")
    opened += 100
except OSError:
    pass
print(parent, opened)
"""


@pytest.mark.parametrize("user", ["own", "unprivileged"])
async def test_a_hostile_tool_cannot_open_the_agents_descriptors(home: Home, user: str) -> None:
    """Root is stopped by a missing capability, the rest by the dumpable flag: both are tried."""
    command = (sys.executable,) if user == "own" else ("unshare", "--user", sys.executable)
    if user == "unprivileged":
        able = await asyncio.create_subprocess_exec(*command, "-c", "", stderr=subprocess.DEVNULL)
        if await able.wait() != 0:
            pytest.skip("no user namespaces here")
    (home.workspace / "hostile.py").write_text(HOSTILE)
    async with running(home, command=command) as agent:
        session = await agent.new(home)
        await agent.say(session, directive("bash", command=f"{sys.executable} hostile.py"))
        assert agent.results() == [f"{agent.process.pid} 0\n[exit code 0]"]
    assert not any(b'"method":"forged"' in line for line in agent.lines)


async def test_what_a_tool_prints_never_reaches_the_protocol(home: Home) -> None:
    frame = '{"jsonrpc":"2.0","method":"forged"}'
    command = f"echo '{frame}'; echo '{frame}' >&2; echo '{frame}' > /dev/tty; true"
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(session, directive("bash", command=command))
    assert agent.results()[0].count(frame) == 2
    assert not any(line.startswith(b'{"jsonrpc":"2.0","method":"forged"') for line in agent.lines)


async def test_tools_see_no_secret_in_their_environment(home: Home) -> None:
    async with running(home, SECRET_KEY="hunter2") as agent:
        session = await agent.new(home)
        await agent.say(session, directive("bash", command="env"))
    (text,) = agent.results()
    assert "hunter2" not in text
    assert "HOME=" in text


async def test_orphans_are_reaped(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        await agent.say(
            session, directive("bash", command="(sh -c 'echo $$ > orphan; sleep 0.2' &)")
        )
        pid = int(await until_file(home.workspace / "orphan"))
        async with asyncio.timeout(DEADLINE):
            while Path(f"/proc/{pid}").exists():
                await asyncio.sleep(0.01)


async def test_a_pattern_that_never_ends_does_not_stop_the_agent(home: Home) -> None:
    (home.workspace / "a.txt").write_text("a" * 64 + "!")
    async with running(home) as agent:
        session = await agent.new(home)
        prompt = agent.prompt(session, directive("grep", pattern="(a+)+$"))
        await agent.seen("tool_call")
        agent.cancel(session)
        assert (await asyncio.wait_for(prompt, DEADLINE))["stopReason"] == "cancelled"


async def start(environment: dict[str, str], data: bytes) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "runner.agent",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **environment},
    )
    assert process.stdin is not None
    process.stdin.write(data)  # and stay: the agent must end by itself
    await process.stdin.drain()
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = await asyncio.wait_for(
        asyncio.gather(process.stdout.read(), process.stderr.read()), DEADLINE
    )
    return await process.wait(), out, err


INITIALIZE = b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":1}}\n'


@pytest.mark.parametrize(
    "config", [None, "default_model = ", 'default_model = "x"', "loop_control = 3", "\xff"]
)
async def test_a_bad_config_is_answered_and_ends_with_code_2(
    tmp_path: Path, config: str | None
) -> None:
    (tmp_path / ".kimi").mkdir()
    if config is not None:
        (tmp_path / ".kimi" / "config.toml").write_text(config, encoding="latin-1")
    code, out, err = await start({"HOME": str(tmp_path)}, INITIALIZE)
    assert code == 2
    assert b'"error"' in out
    assert b'"hint"' in out
    assert err.startswith(b"error: ")
    assert b"\nhint: " in err
    assert b"Traceback" not in err


async def test_garbage_on_the_protocol_ends_the_agent_with_code_1(home: Home) -> None:
    code, out, err = await start(home.environment(), b"\xff\xfe{not json\n")
    assert (code, out) == (1, b"")
    assert b"error: the client broke the protocol" in err


async def test_only_the_agents_own_packages_are_loaded(tmp_path: Path) -> None:
    """A cold container pays for each import."""
    heavy = "pydantic", "httpx", "structlog", "typer", "anyio", "docker", "sqlalchemy"
    code = (
        "import sys, runner.agent.app, runner.agent.transport\n"
        f"print([m for m in {heavy!r} if m in sys.modules], 'h11' in sys.modules)"
    )
    early = "import sys, runner.agent.app\nprint('h11' in sys.modules)"
    for source, expected in ((code, b"[] True\n"), (early, b"False\n")):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", source, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert out == expected


async def test_a_cancel_without_a_turn_is_ignored(home: Home) -> None:
    async with running(home) as agent:
        session = await agent.new(home)
        agent.cancel(session)
        agent.cancel("unknown")
        agent.send({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": 7}})
        result, _ = await agent.say(session, "hello")
    assert result["stopReason"] == "end_turn"


async def test_a_cancel_right_behind_a_prompt_is_not_lost(home: Home) -> None:
    async def once(agent: Agent, session: str) -> str:
        prompt = agent.prompt(session, directive("bash", command="sleep 600"))
        agent.cancel(session)
        try:
            return str((await asyncio.wait_for(prompt, DEADLINE))["stopReason"])
        except Refused as e:
            return e.data["code"]

    async with running(home) as agent:
        session = await agent.new(home)
        assert await once(agent, session) == "cancelled"
        result, _ = await agent.say(session, "hello")
    assert result["stopReason"] == "end_turn"


PID_1 = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]


async def test_as_pid_1_it_ends_on_a_signal_and_kills_what_forks_away(home: Home) -> None:
    """As in a container; a pid namespace of its own is all that needs."""
    able = await asyncio.create_subprocess_exec(*PID_1, "true", stderr=subprocess.DEVNULL)
    if await able.wait() != 0:
        pytest.skip("no user and pid namespaces here")
    async with running(home, command=(*PID_1, sys.executable)) as agent:
        session = await agent.new(home)
        prompt = agent.prompt(
            session,
            directive("bash", command=DETACHED + "echo $PPID > parent; sleep 600"),
        )
        assert int(await until_file(home.workspace / "parent")) == 1
        await grandchild(home)
        agent.cancel(session)
        assert (await asyncio.wait_for(prompt, DEADLINE))["stopReason"] == "cancelled"
        await agent.say(session, directive("bash", command="ls -d /proc/[0-9]* | wc -l"))
        # the agent, the shell, ls and perhaps wc by then: the rest is gone and reaped
        assert int(agent.results()[0].split()[0]) <= 4
        (pid,) = map(int, children_of(agent.process.pid))
        os.kill(pid, signal.SIGTERM)
        assert await asyncio.wait_for(agent.process.wait(), 10) == 0


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
