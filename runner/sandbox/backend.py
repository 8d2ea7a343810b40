"""Chooses the backend: ``docker``, ``process``, or the stronger of what is there (``auto``)."""

from __future__ import annotations

from typing import Literal

from runner.errors import EngineError
from runner.sandbox.docker import DockerSpawner
from runner.sandbox.process import ProcessSpawner
from runner.sandbox.spawner import Spawner
from runner.settings.layout import Layout

Backend = Literal["docker", "process", "auto"]


async def open_spawner(backend: Backend, layout: Layout, install: str, *, image: str) -> Spawner:
    """Open the spawner an operator asked for.

    ``auto`` takes Docker when an engine answers, and says in ``check()``'s warning why not when it
    does not. The image is not looked at here: ``check()`` and ``ensure()`` do.

    Args:
        install: names this installation on its engine; two installs never see each other.
        image: the agent image for specs that name none (Docker only).

    Raises:
        EngineError: "docker" was asked for and none answers, or without permission.
        ConfigError: we run in a container ourselves and our data is not on the engine's machine.
    """
    if backend == "process":
        return await ProcessSpawner.open(layout, install)
    try:
        return await DockerSpawner.open(layout, install, image)
    except EngineError as e:
        if backend == "docker":
            raise
        return await ProcessSpawner.open(layout, install, why=e.message)
