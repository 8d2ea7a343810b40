"""What any test may ask for: a Docker engine that answers, and the agent's image in it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from runner.errors import EngineError
from runner.sandbox.build import build_image
from runner.sandbox.engine import Engine

TREE = Path(__file__).resolve().parents[1]
# Each source tree has an image of its own: several may be under test on one engine.
TEST_IMAGE = f"nanokimi-agent-test-{hashlib.sha256(str(TREE).encode()).hexdigest()[:8]}"
BUILD_WAIT = 900.0


@pytest.fixture(scope="session")
def docker_engine() -> str:
    """Version of the engine. Without one: a skip, or a failure when it is required."""

    async def version() -> str:
        engine = await Engine.connect()
        try:
            return await engine.version()
        finally:
            await engine.close()

    try:
        return asyncio.run(version())
    except EngineError as e:
        if os.environ.get("NANOKIMI_REQUIRE_DOCKER") == "1":
            pytest.fail(f"NANOKIMI_REQUIRE_DOCKER=1, but: {e}", pytrace=False)
        pytest.skip(f"no Docker engine: {e}")


@pytest.fixture(scope="session")
def agent_image(docker_engine: str) -> str:
    """Name of an image of this source tree; one worker builds it, the others wait for it."""
    lock = Path(tempfile.gettempdir()) / f"{TEST_IMAGE}-{os.getuid()}.lock"
    with FileLock(lock, timeout=BUILD_WAIT):
        return build_image(tag=TEST_IMAGE).tag
