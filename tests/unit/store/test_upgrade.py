"""A database of any version opens with this one, and loses nothing on the way."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from database_server import PostgresServer
from sqlalchemy import Connection, Engine, MetaData, text

from runner.errors import PermanentError, TemporaryError
from runner.model import MessageState, TurnState
from runner.store import Place, Store, schema, upgrade
from runner.store.database import open_engine
from runner.store.migrations import FIRST, HEAD, SCRIPTS

HERE = Path(__file__).parent
NEVER = datetime(2026, 11, 20, tzinfo=UTC)

# One row of each kind, as the first version wrote them.
DATA = """
INSERT INTO groups VALUES ('birds', 'birds-1', 'session-7', 3, 1000.5);
INSERT INTO messages VALUES
    (1, 'msg_1', 'birds', 'http', 'x1', 'Ada', 'hello', {true}, 'answered', 'turn_1', '{{}}', 1000),
    (2, 'msg_2', 'birds', 'http', NULL, 'Ada', 'and now?', {true}, 'queued', NULL, '{{"a": 1}}',
     1001);
INSERT INTO turns VALUES
    ('turn_1', 'birds', 'done', 2, 3, 'hi', NULL, '{{"input_tokens": 5}}', 1000.6, 1000.9);
INSERT INTO events VALUES
    (1763600000000000, 'birds', 'turn.finished', 'turn_1', '["msg_1"]', '{{"text": "hi"}}');
INSERT INTO calls VALUES
    (1, 1000.7, 0, 'birds', '', '', 'kimi', 'k3', 5, 1, NULL, 2, NULL, NULL, 99, 1.5, 9.5, 'ok',
     {false}, 1);
INSERT INTO failures VALUES (1, 1000.7, 'birds', '', 'kimi', 'k3', 'timeout');
"""


@contextmanager
def raw(place: Place) -> Iterator[Any]:
    """The database without us."""
    if isinstance(place, Path):
        with closing(sqlite3.connect(place, isolation_level=None)) as c:
            yield c
    else:
        with psycopg.connect(place, autocommit=True) as c:
            yield c


@pytest.fixture
def first(place: Place) -> Place:
    """A database of the first version with data in it."""
    sqlite = isinstance(place, Path)
    kind, yes, no = ("sqlite", "1", "0") if sqlite else ("postgresql", "true", "false")
    script = (HERE / f"first_schema.{kind}.sql").read_text() + DATA.format(true=yes, false=no)
    with raw(place) as c:
        if sqlite:
            c.executescript(script)
        else:
            c.execute(script)
            c.execute("SELECT setval('messages_seq_seq', 2)")
    return place


@pytest.fixture
def another(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """Another empty database of the same kind."""
    if isinstance(place, Path):
        yield tmp_path / "other.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.create()
    yield url
    server.drop(url)


@pytest.fixture
def engine(place: Place) -> Iterator[Engine]:
    made = open_engine(place)
    yield made
    made.dispose()


def differences(c: Connection) -> list[Any]:
    return compare_metadata(MigrationContext.configure(c), schema.metadata)


def test_the_steps_lead_to_the_tables_that_the_code_uses(engine: Engine) -> None:
    with engine.begin() as c:
        upgrade.migrate(c)
        assert differences(c) == []


def test_a_new_database_is_as_one_that_took_every_step(engine: Engine) -> None:
    with engine.begin() as c:
        upgrade.prepare(c)
        assert differences(c) == []
        assert c.scalar(text("select version_num from alembic_version")) == HEAD


def test_the_first_step_makes_the_tables_of_the_first_version(first: Place, another: Place) -> None:
    """So a database that never saw a step may be taken for one that took the first."""
    old, new = open_engine(first), open_engine(another)
    with new.begin() as c:
        upgrade.migrate(c, FIRST)
    found = MetaData()
    with old.begin() as c:
        found.reflect(c)
    with new.begin() as c:
        assert compare_metadata(MigrationContext.configure(c), found) == []
    for engine in (old, new):
        engine.dispose()


def test_the_last_step_is_the_one_that_the_code_names() -> None:
    assert ScriptDirectory(str(SCRIPTS)).get_heads() == [HEAD]


async def test_a_database_of_the_first_version_is_upgraded_and_loses_nothing(
    first: Place,
) -> None:
    store = await Store.open(first)
    try:
        group = await store.group("birds")
        assert (group.session_id, group.generation, group.owner) == ("session-7", 3, "")
        answered, waiting = await store.messages("birds")
        assert (answered.text, answered.external_id) == ("hello", "x1")
        assert answered.state is MessageState.ANSWERED
        assert (waiting.text, waiting.metadata, waiting.attachments) == ("and now?", {"a": 1}, ())
        turn = await store.turn("turn_1")
        assert (turn.state, turn.attempt, turn.text) == (TurnState.DONE, 2, "hi")
        assert [e.data for e in await store.events_after("birds", 0)] == [{"text": "hi"}]
        assert await store.install_id() == "0123456789"
        spent = await store.read(lambda c: c.scalar(text("select sum(cost_nano) from calls")))
        assert int(spent or 0) == 99
        assert await store.read(differences) == []
    finally:
        await store.close()


async def test_an_older_version_refuses_what_this_one_wrote(place: Place) -> None:
    await (await Store.open(place)).close()
    with raw(place) as c:
        (found,) = c.execute("select value from meta where key = 'schema_version'").fetchone()
    assert int(found) > 1  # which is what the first version looks at


async def test_a_newer_database_is_refused_and_left_alone(place: Place) -> None:
    await (await Store.open(place)).close()
    with raw(place) as c:
        c.execute("update alembic_version set version_num = '9999'")
    with pytest.raises(PermanentError, match="newer") as e:
        await Store.open(place)
    assert e.value.code == "store_too_new"
    with raw(place) as c:
        assert c.execute("select version_num from alembic_version").fetchone() == ("9999",)


async def test_two_that_start_at_once_upgrade_it_once(first: Place) -> None:
    stores = await asyncio.gather(*(Store.open(first) for _ in range(4)))
    for store in stores:
        assert len(await store.messages("birds")) == 2
        await store.close()
    if isinstance(first, Path):
        assert len(backups(first)) == 1


async def test_two_that_start_at_once_make_a_new_database_once(place: Place) -> None:
    stores = await asyncio.gather(*(Store.open(place) for _ in range(4)))
    assert len(set(await asyncio.gather(*(store.install_id() for store in stores)))) == 1
    for store in stores:
        await store.close()


async def test_a_step_that_fails_leaves_the_database_as_it_was(first: Place) -> None:
    with raw(first) as c:  # in the way of the second step
        c.execute("create table hosts (id integer)")
    with pytest.raises(PermanentError) as e:
        await Store.open(first)
    assert e.value.code == "store_upgrade_failed"
    with raw(first) as c:
        assert c.execute("select count(*) from messages").fetchone() == (2,)
        c.execute("drop table hosts")
    await (await Store.open(first)).close()


# -- backups --------------------------------------------------------------------------------------


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.backup-*"))


@pytest.fixture
def first_file(tmp_path: Path) -> Path:
    path = tmp_path / "nanokimi.db"
    with closing(sqlite3.connect(path)) as c:
        c.executescript((HERE / "first_schema.sqlite.sql").read_text())
        c.executescript(DATA.format(true="1", false="0"))
    return path


async def test_an_upgrade_keeps_a_private_copy_that_works(first_file: Path) -> None:
    await (await Store.open(first_file)).close()
    (copy,) = backups(first_file)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as c:
        assert c.execute("select count(*) from messages").fetchone() == (2,)
        columns = [row[1] for row in c.execute("pragma table_info(groups)")]
    assert "owner" not in columns
    await (await Store.open(copy)).close()


async def test_a_new_database_and_one_that_is_up_to_date_are_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "nanokimi.db"
    for _ in range(2):
        await (await Store.open(path)).close()
    assert backups(path) == []


async def test_only_the_newest_copies_are_kept(first_file: Path) -> None:
    for day in range(1, 6):
        upgrade.back_up(first_file, "0001", NEVER.replace(day=day))
    other = first_file.with_name(f"{first_file.name}.backup-mine")
    other.touch()
    await (await Store.open(first_file)).close()
    kept = [p.name.rpartition("-")[2] for p in backups(first_file) if p != other]
    assert len(kept) == upgrade.BACKUPS
    assert {"20261104T000000Z", "20261105T000000Z"} <= set(kept)
    assert other.exists()


async def test_without_room_for_the_copy_nothing_is_upgraded(
    first_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = f"{first_file.name}.backup-0001-{NEVER:%Y%m%dT%H%M%SZ}"
    first_file.with_name(blocked).mkdir()
    first_file.with_name(blocked).joinpath("full").touch()

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return NEVER

    monkeypatch.setattr(upgrade, "datetime", Clock)
    with pytest.raises(TemporaryError, match="backed up") as e:
        await Store.open(first_file)
    assert e.value.code == "store_no_backup"
    with closing(sqlite3.connect(first_file)) as c:
        assert "owner" not in [row[1] for row in c.execute("pragma table_info(groups)")]


async def test_a_start_with_nothing_to_do_does_not_load_alembic(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from runner.store import Store\n"
        "async def main():\n"
        "    await (await Store.open(Path(sys.argv[1]))).close()\n"
        "asyncio.run(main()); print('alembic' in sys.modules)"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "x.db")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == "False"
