"""How a database is found and opened, and what is said when that fails."""

from pathlib import Path

import pytest
from database_server import PostgresServer

from runner.errors import ConfigError, NanokimiError, PermanentError, TemporaryError
from runner.store import Store


async def refused(url: str) -> NanokimiError:
    with pytest.raises(NanokimiError) as e:
        await (await Store.open(url)).close()
    return e.value


async def test_a_wrong_password_is_said_and_never_shown(
    postgres: PostgresServer, postgres_url: str
) -> None:
    error = await refused(postgres_url.replace(postgres.password, "opensesame"))
    assert error.code == "store_login_refused"
    assert isinstance(error, PermanentError)
    assert "opensesame" not in f"{error.message} {error.hint}"


async def test_a_database_that_is_missing_is_named_with_the_command_that_makes_it(
    postgres: PostgresServer,
) -> None:
    error = await refused(postgres.url("nowhere"))
    assert error.code == "store_missing"
    assert "createdb" in error.hint
    assert "nowhere" in error.hint


async def test_a_server_that_is_down_is_a_reason_to_try_again(
    postgres: PostgresServer, postgres_url: str
) -> None:
    postgres.stop()
    error = await refused(postgres_url)
    assert error.code == "store_unavailable"
    assert isinstance(error, TemporaryError)
    assert postgres.password not in f"{error.message} {error.hint}"


async def test_a_database_that_cannot_hold_every_text_is_refused(
    postgres: PostgresServer,
) -> None:
    url = postgres.create(encoding="LATIN1")
    try:
        error = await refused(url)
    finally:
        postgres.drop(url)
    assert error.code == "store_wrong_encoding"


@pytest.mark.parametrize("url", ["mysql://u:opensesame@h/d", "postgresql://u:opensesame@h:x/d"])
async def test_a_url_that_names_no_database_of_ours_is_a_mistake_in_the_config(url: str) -> None:
    error = await refused(url)
    assert isinstance(error, ConfigError)
    assert "opensesame" not in f"{error.message} {error.hint}"


async def test_a_sqlite_url_names_a_file(tmp_path: Path) -> None:
    path = tmp_path / "somewhere" / "else.db"
    await (await Store.open(f"sqlite:///{path}")).close()
    assert path.stat().st_mode & 0o077 == 0
