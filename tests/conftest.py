"""What any test may ask for: a Docker engine that answers, the agent's image in it, a database.

``store_url`` and ``place`` run a test twice: on SQLite, and on a PostgreSQL database of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from database_server import NotInstalled, PostgresServer, postgres_server
from filelock import FileLock

from runner.errors import EngineError
from runner.sandbox.build import build_image
from runner.sandbox.engine import Engine
from runner.store import Place

# A shell's background job ignores Ctrl-C, and so would every command that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(autouse=True)
def _no_log_of_another_test() -> Iterator[None]:
    """A command that ran in this process would have the next test log to a stream that is gone."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def agent_image(docker_engine: str) -> str:
    """Name of an image of this source tree; one worker builds it, the others wait for it."""
    lock = Path(tempfile.gettempdir()) / f"{TEST_IMAGE}-{os.getuid()}.lock"
    with FileLock(lock, timeout=BUILD_WAIT):
        return build_image(tag=TEST_IMAGE).tag


@pytest.fixture(scope="session")
def _postgres() -> Iterator[PostgresServer]:
    try:
        with postgres_server() as server:
            yield server
    except NotInstalled as e:
        if os.environ.get("NANOKIMI_REQUIRE_POSTGRES") == "1":
            pytest.fail(f"NANOKIMI_REQUIRE_POSTGRES=1, but: {e}", pytrace=False)
        pytest.skip(str(e))


@pytest.fixture
def postgres(_postgres: PostgresServer) -> PostgresServer:
    """A server that runs; a test may stop and start it. Without one: a skip, or a failure."""
    if not _postgres.running:
        _postgres.start()
    return _postgres


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """URL of a new empty database."""
    url = postgres.create()
    yield url
    if not postgres.running:
        postgres.start()
    postgres.drop(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest) -> str:
    """Each database in turn, as ``[store] url`` names it: empty is SQLite in the data directory."""
    if request.param == "sqlite":
        return ""
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def place(store_url: str, tmp_path: Path) -> Place:
    """Each database in turn, as ``Store.open`` takes it."""
    return store_url or tmp_path / "nanokimi.db"
