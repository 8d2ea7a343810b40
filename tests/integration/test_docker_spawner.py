"""What only Docker can do or break: adoption, inspection, networks, the engine's own errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import PurePosixPath

import pytest

from runner.errors import ConflictError, EngineError, ImageMissingError, SandboxGoneError
from runner.sandbox.backend import open_spawner
from runner.sandbox.container import name_of
from runner.sandbox.docker import DockerSpawner
from runner.sandbox.engine import Engine
from runner.sandbox.hostpaths import own_container_id, translate

pytestmark = pytest.mark.docker

ECHO = "import sys\nprint('ready', flush=True)\nfor l in sys.stdin: print(l, end='', flush=True)"


@contextlib.asynccontextmanager
async def engine() -> AsyncIterator[Engine]:
    made = await Engine.connect()
    try:
        yield made
    finally:
        await made.close()


async def test_a_new_host_adopts_what_an_old_one_left_running(docker_lab):
    agent = await docker_lab.start(ECHO)
    assert await agent.line() == "ready"
    agent.streams.abort()
    successor = await docker_lab.open()
    (found,) = await successor.list()
    assert found == agent.info
    adopted = docker_lab.running(await successor.adopt(found))
    await adopted.say("still there?")
    assert await adopted.line() == "still there?"


async def test_an_ended_or_missing_container_is_not_adopted(docker_lab):
    agent = await docker_lab.start("pass")
    await agent.exited()
    with pytest.raises(SandboxGoneError):
        await docker_lab.spawner.adopt(agent.info)
    await agent.stop()
    with pytest.raises(SandboxGoneError):
        await docker_lab.spawner.adopt(agent.info)


async def test_inspection_shows_the_hardening_and_no_secret(docker_lab):
    agent = await docker_lab.start(
        ECHO, credentials={"kimi-code.json": '{"access_token": "very-secret"}'}
    )
    async with engine() as e:
        seen = await e.run("inspect", lambda api: api.inspect_container(agent.info.ref))
    host = seen["HostConfig"]
    assert "very-secret" not in json.dumps(seen)
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert host["NetworkMode"] == "none"
    assert host["PidsLimit"] == 64
    assert host["Memory"] == host["MemorySwap"] == 512 << 20
    assert host["LogConfig"]["Type"] == "local"
    assert seen["Config"]["StdinOnce"] is False
    modes = {m["Destination"]: m["RW"] for m in seen["Mounts"]}
    assert modes == {
        "/home/agent/.kimi/config": False,
        "/home/agent/.kimi/credentials": False,
        "/home/agent/.kimi/sessions": True,
        "/workspace": True,
        "/run/nanokimi": False,
    }


async def test_a_missing_image_says_how_to_make_it(docker_lab):
    spawner = await DockerSpawner.open(docker_lab.layout, docker_lab.install, "no-such-image:x")
    try:
        for call in (spawner.check(), spawner.ensure(docker_lab.spec(), 1)):
            with pytest.raises(ImageMissingError) as e:
                await call
            assert "nanokimi build" in e.value.hint
    finally:
        await spawner.close()


async def test_a_command_that_is_not_in_the_image_leaves_no_container(docker_lab):
    with pytest.raises(EngineError, match="did not start"):
        await docker_lab.spawner.ensure(docker_lab.spec(["no-such-agent", "acp"]), 1)
    assert await docker_lab.spawner.list() == []


async def test_a_name_held_by_a_stranger_s_container_is_a_conflict(docker_lab):
    name = name_of(docker_lab.install, "g-1")
    async with engine() as e:
        ref = await e.create(name, {"Image": docker_lab.image, "Entrypoint": ["true"]})
        try:
            with pytest.raises(ConflictError, match="not ours"):
                await docker_lab.start(ECHO)
            assert await e.state(ref) is not None
        finally:
            await e.remove(ref)


async def test_a_cancelled_start_leaves_no_running_container(docker_lab):
    starting = asyncio.create_task(docker_lab.start(ECHO))
    while not await docker_lab.spawner.list():  # created, and not yet ready or just so
        await asyncio.sleep(0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await starting).stop()
    assert await docker_lab.spawner.list() == []


async def test_an_open_sandbox_has_a_network_but_no_way_to_metadata_or_neighbours(docker_lab):
    neighbour = await docker_lab.start(
        "import socket\n"
        "s = socket.create_server(('0.0.0.0', 9000))\n"
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "u.connect(('198.51.100.1', 9))\n"  # sends nothing; picks the way out
        "print(u.getsockname()[0], flush=True)\n"
        "s.accept()",
        folder="g-n",
        network="open",
    )
    address = await neighbour.line()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(greet, "0.0.0.0", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        agent = await docker_lab.start(
            "import socket, struct\n"
            "def attempt(address, port):\n"
            "    try:\n"
            "        socket.create_connection((address, port), timeout=2).close()\n"
            "        return 'open'\n"
            "    except OSError as e:\n"
            "        return 'closed'\n"
            "routes = [l.split() for l in open('/proc/net/route').readlines()[1:]]\n"
            "default = next(r[2] for r in routes if r[1] == '00000000')\n"
            "gateway = socket.inet_ntoa(struct.pack('<I', int(default, 16)))\n"
            "link_local = [r for r in routes if r[1] == '0000FEA9' and r[2] == '00000000']\n"
            f"print(attempt(gateway, {port}), attempt('169.254.169.254', 80),"
            f" attempt({address!r}, 9000), len(link_local), flush=True)",
            network="open",
        )
        assert await agent.line() == "open closed closed 1"


async def test_the_engine_s_machine_keeps_its_own_way_to_link_local_addresses(docker_lab):
    await docker_lab.start("pass", network="open")
    with open("/proc/net/route") as routes:
        assert not [line for line in routes if line.split()[1] == "0000FEA9"]


async def test_our_own_container_and_its_mounts_are_found(docker_lab, tmp_path):
    body = {
        "Image": docker_lab.image,
        "Entrypoint": ["cat", "/proc/self/mountinfo"],
        "HostConfig": {
            "NetworkMode": "none",
            "Mounts": [{"Type": "bind", "Source": str(tmp_path), "Target": "/data"}],
        },
    }
    async with engine() as e:
        ref = await e.create(f"nanokimi-test-{os.urandom(6).hex()}", body)
        try:
            await e.start(ref)
            await e.run("wait", lambda api: api.wait(ref))
            mountinfo = (await e.run("logs", lambda api: api.logs(ref))).decode()
            assert own_container_id(mountinfo) == ref
            mounts = await e.mounts_of(ref)
            assert mounts is not None
            assert translate(PurePosixPath("/data/groups"), mounts) == f"{tmp_path}/groups"
        finally:
            await e.remove(ref)
        assert await e.mounts_of(ref) is None


async def test_the_backend_is_docker_when_an_engine_answers(docker_lab):
    for wanted in ("docker", "auto"):
        spawner = await open_spawner(
            wanted, docker_lab.layout, docker_lab.install, image=docker_lab.image
        )
        assert isinstance(spawner, DockerSpawner)
        await spawner.close()
