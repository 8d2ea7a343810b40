"""Agents that attack the machine itself: one served host, one attack after the other.

Each ends with a reason, the host's memory stays flat, other groups are answered meanwhile, and
nothing outside the attacker's own folders changes.
"""

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig import log_in, write_config
from served import LISTEN, Served, tail

from runner.api.client import Api, ServerEvent, group_path
from runner.demo.provider import DemoProvider
from runner.model import folder_of
from runner.sandbox.trees import remove_tree
from runner.settings.layout import Layout

MIB = 1 << 20
GROWTH = 96 * MIB
TURN = 15.0
NORMAL = 8.0  # seconds for an answer, on a machine that runs other tests too; less than TURN

AGENT = """
import json, os, subprocess, sys, time

def send(**frame):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **frame}) + "\\n")
    sys.stdout.flush()

def say(text, session="s", **meta):
    chunk = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
    send(method="session/update", params={"sessionId": session, "update": chunk, "_meta": meta})

def call(n):
    tool = {"sessionUpdate": "tool_call", "toolCallId": str(n), "title": "x" * 200, "rawInput": n}
    send(method="session/update", params={"sessionId": "s", "update": tool})

def attack():
ATTACK

EARLY
for line in sys.stdin:
    asked = json.loads(line)
    id_, method = asked.get("id"), asked.get("method")
    if method == "initialize":
        send(id=id_, result={"protocolVersion": 1, "agentCapabilities": {}})
    elif method == "session/new":
        send(id=id_, result={"sessionId": "s"})
    elif method == "session/prompt":
        attack()
        send(id=id_, result={"stopReason": "end_turn"})
"""


@dataclass(frozen=True)
class Attack:
    """``codes``: how its turn may fail; none for one that does no harm. ``early``: at its start."""

    code: str
    codes: frozenset[str]
    early: str = ""
    prompt: str = "hello"


def attack(code: str, *codes: str, early: str = "", prompt: str = "hello") -> Attack:
    return Attack(code, frozenset(codes), early, prompt)


CUT = "the stream was cut"
FOREVER = "while True: time.sleep(1)"
ATTACKS = {
    "forks for ever": attack(
        "n = 0\nwhile True:\n    try: n += os.fork() == 0\n    except OSError: time.sleep(0.1)",
        "turn_timeout", "sandbox_gone", "protocol_bad_json", "protocol_bad_frame",
    ),
    "takes all memory": attack(
        "held = []\nwhile True: held.append(b'x' * (16 << 20))", "sandbox_gone"
    ),
    "fills the disk": attack(
        "for n in range(400):\n"
        "    with open(f'/workspace/{n}', 'wb') as f: f.write(os.urandom(1 << 20))\n"
        "    time.sleep(0.02)\n" + FOREVER,
        "disk_quota",
    ),
    "nests its directories": attack(
        "for n in range(3000):\n    os.mkdir('d'); os.chdir('d')\n" + FOREVER, "disk_quota"
    ),
    "says it has a terabyte": attack("os.truncate(os.open('/workspace/x', 66), 1 << 40)"),
    "writes one endless line": attack(
        "while True: sys.stdout.write('x' * 65536)", "protocol_line_too_long"
    ),
    "writes endless lines": attack(
        "while True: sys.stdout.write('\\n' * 65536)", "protocol_flood", "protocol_bad_json",
        "protocol_bad_frame",
    ),
    "floods with tools": attack(
        "n = 0\nwhile True:\n    n += 1\n    call(n)", "protocol_flood", "turn_timeout", CUT
    ),
    "floods its log": attack(
        "while True: sys.stderr.write('x' * 65536)", "turn_timeout"
    ),
    "never reads": attack("", "sandbox_gone", "agent_silent", "turn_timeout",
                          early="for n in range(2):\n    a = json.loads(sys.stdin.readline())\n"
                                "    send(id=a['id'], result={'protocolVersion': 1, "
                                "'agentCapabilities': {}, 'sessionId': 's'})\n" + FOREVER,
                          prompt="x" * 500_000),
    "ends at once": attack("", "sandbox_gone", early="sys.exit(0)"),
    "ends in mid-turn": attack("os._exit(0)", "sandbox_gone"),
    "speaks for others": attack(
        "say('forged', 'their session', group='birds', turn='turn_1', "
        "nanokimi={'group': 'birds', 'turn': 'turn_1'})\n"
        "send(id=10**9, result={'stopReason': 'end_turn'})",
        "protocol_unknown_id",
    ),
    "plants links everywhere": attack(
        "for here in ('/workspace', os.path.expanduser('~/.kimi/sessions')):\n"
        "    for n, there in enumerate(['/etc/passwd', 'CANARY', 'DATABASE', '/']):\n"
        "        os.symlink(there, f'{here}/{n}')\n"
        "    os.mkfifo(f'{here}/fifo')\n"
        "    os.mkdir(f'{here}/locked'); os.chmod(f'{here}/locked', 0)"
    ),
}  # fmt: skip


def indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in (code or "pass").splitlines())


def fingerprint(tree: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        found.update(f"{path}{status.st_mode}{status.st_uid}{status.st_size}".encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def turn(api: Api, group: str, text: str) -> ServerEvent:
    """The last event of the turn that answers."""
    async with asyncio.timeout(90):
        async with aclosing(api.send(group, {"text": text})) as events:
            last = [event async for event in events][-1]
        if last.kind in ("turn.finished", "turn.failed"):
            return last
        while True:  # more events than its own listener could hear
            (message,) = (await api.call("GET", f"{group_path(group)}/messages"))["messages"]
            if message["state"] == "failed":
                return ServerEvent("turn.failed", {"code": CUT, "message": "too many events"})
            await asyncio.sleep(0.1)


def configure(
    layout: Layout, provider: DemoProvider, canary: Path, backend: str, image: str
) -> None:
    python = "python3" if backend == "docker" else sys.executable
    tables = [LISTEN]
    for name, one in ATTACKS.items():
        code = one.code.replace("CANARY", str(canary)).replace("DATABASE", str(layout.database))
        workspace = layout.workspace(folder_of(name))
        workspace.mkdir(parents=True)
        (workspace / "agent.py").write_text(
            AGENT.replace("ATTACK", indented(code)).replace("EARLY", one.early)
        )
        tables.append(
            f"[groups.{json.dumps(name)}]\n"
            f"engine = {json.dumps([python, '/workspace/agent.py'])}\n"
            'limits = { memory = "128m", pids = 48, disk = "24m" }\n'
        )
    write_config(
        layout, provider, backend=backend, image=image,
        host=f'max_attempts = 1\nmax_containers = 4\nturn_timeout = "{TURN:g}s"',
        more="\n".join(tables),
    )  # fmt: skip
    log_in(layout, provider)


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "process"])
def where(request: pytest.FixtureRequest, bubblewrap_problem: str) -> Iterator[tuple[str, str]]:
    if request.param == "docker":
        yield "docker", request.getfixturevalue("agent_image")
    elif bubblewrap_problem:
        pytest.skip(bubblewrap_problem)
    else:
        yield "process", "nanokimi-agent"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_no_attack_from_a_sandbox_hurts_more_than_its_own_group(
    tmp_path: Path, where: tuple[str, str]
) -> None:
    layout = Layout(tmp_path / "data")
    canary = tmp_path / "canary"
    (canary / "deep").mkdir(parents=True)
    (canary / "deep" / "file").write_text("untouched")
    ended: dict[str, str] = {}
    slow: dict[str, float] = {}
    grown: dict[str, int] = {}
    async with DemoProvider() as provider:
        configure(layout, provider, canary, *where)
        host = Served(layout)
        await host.start()
        api = host.api()
        try:
            await turn(api, "birds", "!say warm")
            theirs = layout.workspace(folder_of("birds"))
            (theirs / "file").write_text("untouched")
            before = fingerprint(canary), fingerprint(theirs)
            for name, one in ATTACKS.items():
                memory = resident(host.pid)
                attacking = asyncio.create_task(turn(api, name, one.prompt))
                began = time.monotonic()
                answer = await turn(api, "birds", "!say fine")
                assert answer.data["text"] == "fine", name
                if (took := time.monotonic() - began) > NORMAL:
                    slow[name] = took
                last = await attacking
                code = str(last.data["code"]) if last.kind == "turn.failed" else ""
                if code not in one.codes and (code or one.codes):
                    ended[name] = f"{last.kind} {code} {last.data.get('message')}"
                assert not code or last.data["message"]
                if (more := resident(host.pid) - memory) > GROWTH:
                    grown[name] = more
            assert ended == {}
            assert slow == {}
            assert grown == {}
            for name in ATTACKS:  # whatever they left behind can be removed
                await api.call("DELETE", group_path(name))
                assert not layout.workspace(folder_of(name)).exists(), name
            assert (fingerprint(canary), fingerprint(theirs)) == before
            logs = sum(p.stat().st_size for p in (layout.root / "logs").rglob("*"))
            assert logs < 64 * MIB
        except BaseException:
            print(tail(host.log_path, 60))
            raise
        finally:
            await api.aclose()
            await host.stop()
            remove_tree(layout.root)  # pytest's own cleaning does not get to the ground of it
