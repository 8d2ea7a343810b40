"""Which backend is taken when there is no engine, and what is said about it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from runner.errors import EngineError
from runner.sandbox.backend import open_spawner
from runner.sandbox.process import ProcessSpawner
from runner.settings.layout import Layout


async def test_no_engine_is_said_with_the_fix(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineError, match="no Docker engine") as e:
        await open_spawner("docker", Layout(tmp_path), "i", image="x")
    assert 'backend = "process"' in e.value.hint


async def test_auto_takes_a_process_and_warns_why(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    spawner = await open_spawner("auto", Layout(tmp_path), "i", image="x")
    assert isinstance(spawner, ProcessSpawner)
    assert "no Docker engine" in (await spawner.check()).warning
    await spawner.close()


async def test_a_socket_that_hangs_up_is_an_engine_error(tmp_path: Path, monkeypatch):
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{tmp_path}/s")
    server.listen()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/s")
    server.close()
    with pytest.raises(EngineError, match="no Docker engine answers"):
        await open_spawner("docker", Layout(tmp_path), "i", image="x")


async def test_an_address_we_cannot_attach_to_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "ssh://somewhere")
    with pytest.raises(EngineError, match="not supported"):
        await open_spawner("docker", Layout(tmp_path), "i", image="x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use any socket")
async def test_a_socket_without_permission_says_so(tmp_path: Path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/s")
        (tmp_path / "s").chmod(0)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/s")
        with pytest.raises(EngineError, match="no permission") as e:
            await open_spawner("docker", Layout(tmp_path), "i", image="x")
    assert e.value.code == "engine_permission"
