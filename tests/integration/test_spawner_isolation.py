"""What a stranger's code finds inside a sandbox, on each backend that isolates."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from runner.errors import ConfigError
from runner.sandbox.spawner import ExtraMount, Limits
from runner.sandbox.volumes import sandbox_owner

# Runs each attempt and says for each what came of it.
TRY = """
import json, os, socket, errno
def attempt(call):
    try:
        return {"ok": str(call())}
    except OSError as e:
        return {"error": errno.errorcode.get(e.errno, str(e))}
results = {}
"""
TELL = "\nprint(json.dumps(results), flush=True)\n"
DENIED = {"EROFS", "EACCES", "EPERM", "EBUSY", "EXDEV"}


# Plain mode isolates nothing, and says so.
pytestmark = pytest.mark.parametrize(
    "backend", [pytest.param("docker", marks=pytest.mark.docker), "bubblewrap"], indirect=True
)


async def ask(lab, body: str, **more: object) -> dict[str, dict[str, str]]:
    agent = await lab.start(TRY + body + TELL, **more)
    return json.loads(await agent.line())


async def test_read_only_places_cannot_be_written_renamed_or_replaced(lab):
    results = await ask(
        lab,
        """
k = os.environ["HOME"] + "/.kimi"
for place in ("config", "credentials"):
    results["write " + place] = attempt(lambda: open(f"{k}/{place}/new", "w"))
    results["rename " + place] = attempt(lambda: os.rename(f"{k}/{place}", f"{k}/{place}-away"))
    results["chmod " + place] = attempt(lambda: os.chmod(f"{k}/{place}", 0o777))
results["overwrite"] = attempt(lambda: open(f"{k}/credentials/kimi-code.json", "w"))
results["unlink"] = attempt(lambda: os.unlink(f"{k}/credentials/kimi-code.json"))
results["relink"] = attempt(lambda: os.unlink(f"{k}/config.toml"))
results["rename parent"] = attempt(lambda: os.rename(k, os.environ["HOME"] + "/.old"))
results["rename home"] = attempt(lambda: os.rename(os.environ["HOME"], "/home/other"))
results["socket dir"] = attempt(lambda: open("/run/nanokimi/x", "w"))
""",
    )
    assert {name: r for name, r in results.items() if r.get("error") not in DENIED} == {}


async def test_the_root_is_read_only_and_tmp_is_not(lab):
    results = await ask(
        lab,
        """
for place in ("/", "/usr", "/etc", "/home", os.environ["HOME"], "/mnt", "/run"):
    results[place] = attempt(lambda: open(place + "/new", "w"))
flags = os.statvfs("/").f_flag
results["mount"] = {"error": "EROFS"} if flags & os.ST_RDONLY else {"bad": str(flags)}
fine = attempt(lambda: open("/tmp/new", "w")), attempt(lambda: open("/workspace/new", "w"))
results["fine"] = {"error": "EROFS"} if all("ok" in f for f in fine) else {"bad": str(fine)}
""",
    )
    assert {n: r for n, r in results.items() if r.get("error") not in {*DENIED, "ENOENT"}} == {}


async def test_the_agent_is_pid_1_without_root_and_without_capabilities(lab):
    results = await ask(
        lab,
        """
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
results = {k: status[k].strip() for k in ("CapEff", "CapPrm", "CapAmb", "CapInh", "NoNewPrivs")}
results["pid"], results["uid"] = os.getpid(), os.getuid()
""",
    )
    assert results == {
        "CapEff": "0" * 16,
        "CapPrm": "0" * 16,
        "CapAmb": "0" * 16,
        "CapInh": "0" * 16,
        "NoNewPrivs": "1",
        "pid": 1,
        "uid": sandbox_owner().uid,
    }


async def test_what_the_agent_writes_belongs_to_the_sandbox_s_user_on_the_host(lab):
    await ask(lab, "open('made', 'w').close()")
    status = (lab.workspace() / "made").stat()
    assert (status.st_uid, status.st_gid) == (sandbox_owner().uid, sandbox_owner().gid)


async def test_an_isolated_sandbox_has_no_network_but_loopback_of_its_own(lab):
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"host")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        results = await ask(
            lab,
            f"""
results["interfaces"] = sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") \
    else sorted(l.split(":")[0].strip() for l in open("/proc/net/dev").readlines()[2:])
for address in ("127.0.0.1", "169.254.169.254", "198.51.100.1"):
    results[address] = attempt(lambda: socket.create_connection((address, {port}), timeout=5))
""",
        )
    assert results.pop("interfaces") == ["lo"]
    assert all("error" in r for r in results.values()), results


async def test_only_so_many_processes(lab):
    results = await ask(
        lab,
        """
import subprocess, sys
made = 0
def fork():
    global made
    for _ in range(200):
        if os.fork() == 0:
            import time; time.sleep(600)
        made += 1
results["fork"] = attempt(fork)
results["made"] = made
""",
        limits=Limits(memory=512 << 20, cpus=1.0, pids=24),
    )
    assert results["fork"] == {"error": "EAGAIN"}
    assert 10 <= results["made"] <= 24


async def test_one_process_cannot_take_more_memory_than_its_limit(lab):
    agent = await lab.start(
        "import sys\nprint('ready', flush=True)\nx = bytearray(600 << 20)\n"
        "x[::4096] = b'1' * len(x[::4096])\nprint('got it', flush=True)",
        limits=Limits(memory=128 << 20, cpus=1.0, pids=64),
    )
    assert await agent.end_of_stream() == b"ready\n"
    status = await agent.exited()
    if lab.kind == "docker":
        assert status.out_of_memory
        assert "out of memory" in status.detail
    else:
        assert "MemoryError" in status.detail


async def test_a_group_sees_nothing_of_another_group(lab):
    other = await lab.start(
        "import signal; open('secret', 'w').write('of A')\nprint('ready', flush=True)\n"
        "signal.pause()",
        folder="g-a",
    )
    assert await other.line() == "ready"
    results = await ask(
        lab,
        f"""
results["workspace"] = os.listdir("/workspace")
results["by path"] = attempt(lambda: open({str(lab.workspace("g-a") / "secret")!r}).read())
results["processes"] = len([p for p in os.listdir("/proc") if p.isdigit()])
""",
        folder="g-b",
    )
    assert results["workspace"] == []
    assert results["by path"] == {"error": "ENOENT"}
    assert results["processes"] == 1


async def test_the_environment_holds_nothing_of_the_host_s(lab, monkeypatch):
    monkeypatch.setenv("MOONSHOT_API_KEY", "sk-of-the-host")
    results = await ask(lab, "results = dict(os.environ)")
    assert "sk-of-the-host" not in str(results)
    assert results["HOME"] == "/home/agent"
    assert not {n for n in results if "TOKEN" in n or "KEY" in n or "SECRET" in n}


async def test_no_descriptor_of_the_host_leaks_in(lab):
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    try:
        results = await ask(
            lab,
            """
fds = os.listdir("/proc/self/fd")
results = {"fds": [int(f) for f in fds if os.path.exists(f"/proc/self/fd/{f}")]}
""",
        )
    finally:
        os.close(read_end)
        os.close(write_end)
    assert sorted(results["fds"]) == [0, 1, 2]


async def test_an_extra_mount_is_read_only_unless_it_was_listed_otherwise(lab, tmp_path):
    for name in ("docs", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
        (tmp_path / name / "old").write_text("here")
    results = await ask(
        lab,
        """
results["read"] = attempt(lambda: open("/mnt/docs/old").read())
results["docs"] = attempt(lambda: open("/mnt/docs/new", "w"))
results["out"] = attempt(lambda: open("/mnt/out/new", "w"))
""",
        extra_mounts=(
            ExtraMount("docs", str(tmp_path / "docs")),
            ExtraMount("out", str(tmp_path / "out"), read_only=False),
        ),
    )
    assert results["read"] == {"ok": "here"}
    assert results["docs"] == {"error": "EROFS"}
    assert "ok" in results["out"]


async def test_an_extra_mount_of_the_data_directory_starts_nothing(lab):
    (lab.layout.root / "credentials").mkdir()
    with pytest.raises(ConfigError):
        await lab.start("pass", extra_mounts=(ExtraMount("c", str(lab.layout.credentials)),))
    assert await lab.spawner.list() == []
