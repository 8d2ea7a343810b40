"""What every backend keeps of the Spawner's promise. One suite, run on each."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from runner.errors import ConflictError, PermanentError, SandboxGoneError
from runner.sandbox.agentlog import split_line
from runner.sandbox.spawner import HOST_SOCKET, Running
from runner.sandbox.volumes import prepare, sandbox_owner

ECHO = """
import sys
print("ready", flush=True)
for line in sys.stdin.buffer:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""
# Obeys SIGTERM as an agent does, after a last word into its workspace.
OBEDIENT = """
import signal, sys
def end(*_):
    open("last-word", "w").write("bye")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True:
    signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, lambda *_: None)
print("ready", flush=True)
while True:
    signal.pause()
"""
QUICK_STOP = 20.0


async def test_bytes_go_both_ways(lab):
    agent = await lab.start(ECHO)
    assert await agent.line() == "ready"
    await agent.say('{"héllo": "🙂"}')
    assert await agent.line() == '{"héllo": "🙂"}'
    assert (await lab.spawner.poll(agent.info)).running is Running.RUNNING


async def test_lines_of_4_mib_arrive_whole(lab):
    agent = await lab.start(ECHO)
    assert await agent.line() == "ready"
    text = "0123456789abcdef" * (4 << 16)
    saying = asyncio.create_task(agent.say(text))
    assert await agent.line() == text
    await saying


async def test_a_host_that_does_not_read_can_still_stop_the_agent(lab):
    agent = await lab.start(
        "import os, select\n"
        "os.set_blocking(1, False)\n"
        "while select.select([], [1], [], 1)[1]:\n"
        "    os.write(1, b'x' * 65536)\n"
        "open('full', 'w').close()\n"
        "os.set_blocking(1, True)\n"
        "while True: os.write(1, b'x' * 65536)\n"
    )
    await lab.file("full")
    async with asyncio.timeout(QUICK_STOP):
        await agent.stop()
    assert await lab.spawner.list() == []


async def test_an_agent_that_ends_at_once_is_seen_with_its_code_and_last_words(lab):
    agent = await lab.start("import sys; print('no luck', file=sys.stderr); sys.exit(7)")
    assert await agent.end_of_stream() == b""
    status = await agent.exited()
    assert (status.running, status.exit_code) == (Running.EXITED, 7)
    assert "no luck" in status.detail
    at, text = split_line(lab.layout.agent_log("g-1").read_text().splitlines()[-1])
    assert text == "no luck"
    assert at is not None
    assert abs(at.timestamp() - time.time()) < QUICK_STOP


async def test_output_of_an_agent_that_ends_at_once_is_not_lost(lab):
    agent = await lab.start("import sys; sys.stdout.write('y' * 300_000)")
    assert await agent.end_of_stream() == b"y" * 300_000


async def test_a_killed_agent_ends_its_stream_and_is_seen_as_killed(lab):
    agent = await lab.start(ECHO)
    assert await agent.line() == "ready"
    await lab.kill(agent.info)
    assert await agent.end_of_stream() == b""
    status = await agent.exited()
    assert status.exit_code == 137


async def test_writing_to_an_agent_that_is_gone_never_hangs(lab):
    agent = await lab.start("pass")
    assert await agent.end_of_stream() == b""
    async with asyncio.timeout(QUICK_STOP):
        with pytest.raises(SandboxGoneError):
            for _ in range(64):
                await agent.say("x" * 65536)


async def test_an_older_generation_is_replaced(lab):
    first = await lab.start(ECHO, generation=1)
    assert await first.line() == "ready"
    second = await lab.start(ECHO, generation=2)
    assert await second.line() == "ready"
    assert [(i.ref, i.generation) for i in await lab.spawner.list()] == [(second.info.ref, 2)]
    assert await first.end_of_stream() == b""
    assert (await lab.spawner.poll(first.info)).running is Running.ABSENT


async def test_a_leftover_of_the_same_generation_is_replaced(lab):
    await lab.start(ECHO, generation=4)
    again = await lab.start(ECHO, generation=4)
    assert await again.line() == "ready"
    assert len(await lab.spawner.list()) == 1


async def test_a_newer_generation_is_left_alone_with_its_files(lab):
    newer = await lab.start(ECHO, generation=5)
    assert await newer.line() == "ready"
    stale = lab.spec(["python3", "-c", ECHO], credentials={"kimi-code.json": "stale"})
    with pytest.raises(ConflictError):
        await lab.spawner.ensure(stale, 4)
    await newer.say("still here")
    assert await newer.line() == "still here"
    projected = lab.layout.credentials_projection("g-1") / "kimi-code.json"
    assert "stale" not in projected.read_text()


async def test_a_late_stop_of_a_replaced_sandbox_does_not_touch_the_new_one(lab):
    first = await lab.start(ECHO, generation=1)
    second = await lab.start(ECHO, generation=2)
    assert await second.line() == "ready"
    await first.stop()
    await second.say("alive")
    assert await second.line() == "alive"


async def test_the_list_names_every_sandbox_of_this_install_only(lab):
    ones = [await lab.start(ECHO, folder=f"g-{i}", generation=i) for i in (1, 2)]
    other = await lab.open(f"{lab.install}x")
    theirs = await other.ensure(lab.spec(["python3", "-c", ECHO], folder="g-3"), 1)
    listed = sorted(await lab.spawner.list(), key=lambda i: i.folder)
    assert listed == [one.info for one in ones]
    assert [i.group for i in listed] == ["group g-1", "group g-2"]
    assert [i.ref for i in await other.list()] == [theirs.info.ref]


async def test_an_agent_that_ended_stays_listed_until_it_is_stopped(lab):
    agent = await lab.start("pass")
    await agent.exited()
    assert [(i.ref, i.running) for i in await lab.spawner.list()] == [(agent.info.ref, False)]
    await agent.stop()
    assert await lab.spawner.list() == []


async def test_stop_is_fine_with_a_sandbox_that_is_gone(lab):
    agent = await lab.start(ECHO)
    await agent.stop()
    await agent.stop()
    assert (await lab.spawner.poll(agent.info)).running is Running.ABSENT


async def test_stop_leaves_an_obedient_agent_the_time_for_a_last_word(lab):
    agent = await lab.start(OBEDIENT)
    assert await agent.line() == "ready"
    await agent.stop(grace=20)
    assert (lab.workspace() / "last-word").read_text() == "bye"


async def test_stop_ends_a_stubborn_agent_too(lab):
    agent = await lab.start(STUBBORN)
    assert await agent.line() == "ready"
    await agent.stop(grace=1)
    assert await lab.spawner.list() == []


async def test_stop_ends_everything_the_agent_started(lab):
    token = f"nk-{os.urandom(8).hex()}"
    agent = await lab.start(
        "import subprocess, sys, signal\n"
        f"sleeper = [sys.executable, '-c', 'import time; time.sleep(600)', {token!r}]\n"
        "subprocess.Popen(sleeper)\n"
        # One more that leaves the tree: its parent ends at once.
        "lost = 'import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)'\n"
        "subprocess.run([sys.executable, '-c', lost, *sleeper], check=True)\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    assert await agent.line() == "ready"
    assert len(processes_with(token)) >= 2
    await agent.stop()
    assert processes_with(token) == []


def processes_with(token: str) -> list[int]:
    """Pids that have the token as an argument of their own; sandboxes share our kernel."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if token.encode() in arguments:
            found.append(int(path.parent.name))
    return found


async def test_new_credentials_appear_inside_at_once_and_whole(lab):
    agent = await lab.start(
        "import os, sys\n"
        "path = os.environ['HOME'] + '/.kimi/credentials/kimi-code.json'\n"
        "for line in sys.stdin: print(open(path).read(), flush=True)\n"
    )
    await agent.say("")
    assert json.loads(await agent.line())["access_token"] == "first"
    for token in ("second", "third" * 1000):
        await lab.spawner.project("g-1", {"kimi-code.json": json.dumps({"access_token": token})})
        await agent.say("")
        assert json.loads(await agent.line())["access_token"] == token


async def test_the_config_is_where_the_agent_looks(lab):
    agent = await lab.start(
        "import os, json\n"
        "print(json.dumps(open(os.environ['HOME'] + '/.kimi/config.toml').read()), flush=True)\n"
    )
    assert json.loads(await agent.line()) == lab.spec().config


async def test_workspace_and_sessions_keep_what_the_next_sandbox_needs(lab):
    write = (
        "import os\n"
        "open('notes', 'w').write('remember')\n"
        "open(os.environ['HOME'] + '/.kimi/sessions/s', 'w').write('me')\n"
        "print(os.getcwd(), flush=True)\n"
    )
    first = await lab.start(write)
    assert await first.line() == first.sandbox.workspace
    await first.exited()
    second = await lab.start(
        "import os\n"
        "print(open('notes').read(), open(os.environ['HOME'] + '/.kimi/sessions/s').read(),"
        " flush=True)\n",
        generation=2,
    )
    assert await second.line() == "remember me"
    assert (lab.workspace() / "notes").read_text() == "remember"


async def test_the_host_s_socket_answers_inside(lab):
    prepare(lab.layout, "g-1", sandbox_owner())
    path = lab.layout.socket_dir("g-1") / HOST_SOCKET
    directory = os.open(path.parent, os.O_RDONLY)  # pytest's paths are longer than sockets allow

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello " + await reader.readline())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)
    path.chmod(0o666)
    async with server:
        agent = await lab.start(
            "import os, socket\n"
            "s = socket.socket(socket.AF_UNIX)\n"
            "s.connect(os.environ.get('NANOKIMI_RUN_DIR', '/run/nanokimi') + '/host.sock')\n"
            "s.sendall(b'agent\\n')\n"
            "print(s.makefile().readline().strip(), flush=True)\n"
        )
        assert await agent.line() == "hello agent"


async def test_the_native_agent_answers_initialize_and_ends_cleanly(lab):
    agent = await lab.started(lab.spec())
    params = {"protocolVersion": 1, "clientCapabilities": {}}
    await agent.say(
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
    )
    answer = json.loads(await agent.line())
    assert answer["id"] == 1
    assert answer["result"]["protocolVersion"] == 1
    await agent.stop(grace=20)


async def test_check_says_what_the_backend_is_worth(lab):
    report = await lab.spawner.check()
    assert report.backend == ("docker" if lab.kind == "docker" else "process")
    assert report.isolation
    assert bool(report.warning) == (lab.kind != "docker")


async def test_a_folder_below_a_planted_link_starts_nothing(lab, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (lab.layout.root / "groups").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermanentError):
        await lab.start(ECHO)
    assert await lab.spawner.list() == []
    assert list((tmp_path / "elsewhere").iterdir()) == []
