from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.errors import ConfigError
from runner.settings.secret import Secret

from .conftest import Data


def test_a_literal_is_itself_and_never_printed() -> None:
    secret = Secret(" sk-very-secret ")
    assert secret.reveal({}) == "sk-very-secret"
    assert "very" not in f"{secret!r} {secret} {[secret]}"
    assert secret.origin == "literal"


def test_settings_never_print_a_secret(data: Data) -> None:
    settings = data.load('[gateway]\nkeys = ["gw-hush-hush"]\n')
    assert settings.gateway.keys[0].key.reveal() == "gw-hush-hush"
    assert "hush" not in repr(settings) + str(settings) + str(settings.model_dump(mode="json"))


def test_env_is_read_when_it_is_used_not_before(data: Data) -> None:
    key = data.load('[gateway]\nkeys = ["env:MY_KEY"]\n').gateway.keys[0].key
    assert key.reveal({"MY_KEY": "one\n"}) == "one"
    assert key.reveal({"MY_KEY": "two"}) == "two"
    with pytest.raises(ConfigError) as caught:
        key.reveal({})
    assert "MY_KEY" in caught.value.message
    assert "export MY_KEY" in caught.value.hint


def test_a_secret_file_is_relative_to_the_config_and_stripped(data: Data) -> None:
    key = data.load('[gateway]\nkeys = ["file:my-key"]\n').gateway.keys[0].key
    with pytest.raises(ConfigError, match=r"my-key cannot be read"):
        key.reveal()
    (data.root / "my-key").write_text("  sk-1\n")
    assert key.reveal() == "sk-1"


def test_a_pipe_instead_of_a_secret_file_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key")
    with pytest.raises(ConfigError, match="not a regular file"):
        Secret(f"file:{tmp_path}/key").reveal()
    with pytest.raises(ConfigError, match="not a regular file"):
        Secret(f"file:{tmp_path}").reveal()


@pytest.mark.parametrize("content", [b"", b" \n", b"two\nlines", b"\xff\xfe", b"x" * 70_000])
def test_a_secret_file_holds_one_line_of_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match="one line of text"):
        Secret(f"file:{tmp_path}/key").reveal()


def test_a_link_to_a_secret_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("sk-1")
    (tmp_path / "key").symlink_to("real")
    assert Secret("file:key", tmp_path).reveal() == "sk-1"


def test_an_empty_source_of_a_secret_is_named_at_load(data: Data) -> None:
    error = data.refused('[gateway]\nkeys = ["env:"]\n')
    assert 'gateway.keys[0].key says "env:" but not which' in error.message


def test_a_wrong_secret_is_not_repeated_in_the_message(data: Data) -> None:
    error = data.refused("[gateway]\nkeys = [123456789]\n")
    assert "gateway.keys[0] must be text" in error.message
    assert "123456789" not in error.message + error.hint
