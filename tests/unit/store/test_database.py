"""What may be written as ``[store] url``."""

import pytest

from runner.errors import ConfigError
from runner.store import Store
from runner.store.database import open_engine


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:a@secret@127.0.0.1:1/db",
        "postgresql://u:secret@host:port/db",
        "postgresql://u:secret@[::1/db",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_engine(url)
    assert "secret" not in f"{refused.value.message}{refused.value.hint}"


def test_a_password_may_hold_anything_percent_encoded() -> None:
    assert open_engine("postgresql://u:a%40b%2F@127.0.0.1:1/db").url.password == "a@b/"


@pytest.mark.parametrize("url", ["postgres://h/db", "sqlite:///tmp/x.db", "mysql://h/db"])
def test_a_url_of_something_else_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_engine(url)
    assert "postgresql://" in refused.value.hint


async def test_an_unknown_option_of_the_url_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError) as refused:
        await Store.open("postgresql://u:secret@127.0.0.1:1/db?ssmode=require")
    assert "ssmode" in refused.value.message
    assert "secret" not in f"{refused.value.message}{refused.value.hint}"
