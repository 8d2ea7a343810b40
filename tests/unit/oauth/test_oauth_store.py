"""The token file: strict reading, durable writing, and nothing for other people's eyes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from runner.errors import ConfigError, PermanentError
from runner.oauth.headers import ascii_only, client_headers
from runner.oauth.store import TokenStore
from runner.oauth.tokens import TokenSet

LOGIN: dict[str, Any] = {
    "access_token": "acc.ess.SECRET",
    "refresh_token": "ref.resh.SECRET",
    "expires_at": 1_000.5,
    "scope": "kimi-code",
    "token_type": "Bearer",
}


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "credentials", "oauth/kimi-code")


def put(store: TokenStore, content: object, mode: int = 0o600) -> None:
    store.directory.mkdir(mode=0o700, exist_ok=True)
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    store.path.write_bytes(text)
    store.path.chmod(mode)


def modes(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_names_the_file(tmp_path: Path) -> None:
    assert TokenStore(tmp_path, "oauth/kimi-code").path == tmp_path / "kimi-code.json"


@pytest.mark.parametrize(
    "key", ["", "/root/.kimi/kimi-code", "oauth/", "oauth/../x", "~/x", "oauth/.x", "oauth/a b"]
)
def test_a_key_that_is_a_path_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TokenStore(tmp_path, key)
    assert "oauth/kimi-code" in caught.value.hint


def test_no_file_is_no_login(store: TokenStore) -> None:
    assert store.load() is None


def test_a_file_of_kimi_cli_is_read_and_its_unknown_fields_are_kept(store: TokenStore) -> None:
    put(store, {**LOGIN, "account": {"id": 7}})
    tokens = store.load()
    assert tokens is not None
    assert tokens.access_token.get_secret_value() == "acc.ess.SECRET"
    assert (tokens.expires_at, tokens.scope, tokens.lifetime) == (1_000.5, "kimi-code", None)
    store.save(tokens)
    assert json.loads(store.path.read_text()) == {**LOGIN, "account": {"id": 7}}


def test_what_is_saved_is_private_and_leaves_nothing_behind(store: TokenStore) -> None:
    store.save(TokenSet(SecretStr("a"), SecretStr("r"), 5.0, lifetime=900.0))
    assert (modes(store.directory), modes(store.path)) == (0o700, 0o600)
    assert os.listdir(store.directory) == ["kimi-code.json"]
    assert json.loads(store.path.read_text())["expires_in"] == 900.0


def test_a_file_that_others_may_read_is_made_private(store: TokenStore) -> None:
    put(store, LOGIN, mode=0o644)
    store.directory.chmod(0o755)
    tokens = store.load()
    assert modes(store.path) == 0o600
    assert tokens is not None
    store.save(tokens)
    assert modes(store.directory) == 0o700


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "EOF"),
        (b"{not json", "JSON"),
        (b"[]", "object"),
        ({**LOGIN, "access_token": ""}, "access_token"),
        ({**LOGIN, "access_token": "to\nken-SECRET"}, "line ends"),
        ({**LOGIN, "access_token": "tökenSECRET"}, "ASCII"),
        ({k: v for k, v in LOGIN.items() if k != "refresh_token"}, "refresh_token"),
        ({**LOGIN, "expires_at": "soon-SECRET"}, "expires_at"),
        ({**LOGIN, "expires_at": None}, "expires_at"),
        (b'{"access_token": "aSECRET", "refresh_token": "r", "expires_at": NaN}', "expires_at"),
    ],
)
def test_a_broken_file_is_an_error_that_names_the_field_and_keeps_the_file(
    store: TokenStore, content: object, words: str
) -> None:
    put(store, content)
    before = store.path.read_bytes()
    with pytest.raises(PermanentError) as caught:
        store.load()
    assert words in caught.value.message
    assert "SECRET" not in f"{caught.value!r} {caught.value.message} {caught.value.hint}"
    assert "nanokimi login" in caught.value.hint
    assert store.path.read_bytes() == before


def test_a_link_a_folder_a_pipe_and_a_huge_file_are_refused(store: TokenStore) -> None:
    store.directory.mkdir()
    target = store.directory / "elsewhere"
    target.write_text(json.dumps(LOGIN))

    def refused(words: str) -> None:
        with pytest.raises(PermanentError, match=words):
            store.load()

    store.path.symlink_to(target)
    refused("symbolic link")
    store.path.unlink()
    store.path.mkdir()
    refused("not a regular file")
    store.path.rmdir()
    os.mkfifo(store.path)
    refused("not a regular file")
    store.path.unlink()
    store.path.write_bytes(b" " * 70_000)
    refused("larger than")


def test_a_full_disk_is_noticed_before_writing_and_the_old_file_survives(
    store: TokenStore,
) -> None:
    """The file size limit of a child process stands in for the full disk."""
    put(store, LOGIN)
    script = """
import resource, sys
from pathlib import Path
from runner.errors import PermanentError
from runner.oauth.store import TokenStore
store = TokenStore(Path(sys.argv[1]), "oauth/kimi-code")
tokens = store.load()
store.check_writable()
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
for act in (store.check_writable, lambda: store.save(tokens)):
    try:
        act()
    except PermanentError as e:
        assert e.code == "credentials_not_writable" and e.hint, e
    else:
        sys.exit("it was written")
"""
    subprocess.run([sys.executable, "-c", script, str(store.directory)], check=True, timeout=60)
    assert json.loads(store.path.read_text()) == LOGIN
    assert os.listdir(store.directory) == ["kimi-code.json"]


async def test_logging_out_removes_the_login_once(store: TokenStore) -> None:
    await store.replace(TokenSet(SecretStr("a"), SecretStr("r"), 5.0))
    assert await store.delete() is True
    assert store.load() is None
    assert await store.delete() is False


def test_a_record_belongs_to_one_login_and_survives_a_restart(store: TokenStore) -> None:
    old = TokenSet(SecretStr("a"), SecretStr("r"), 5.0)
    store.note_failure(old, "why", lost=True)
    again = TokenStore(store.directory, "oauth/kimi-code")
    assert (again.record(old).lost, again.record(old).last_failure) == (True, "why")
    new = TokenSet(SecretStr("a2"), SecretStr("r2"), 5.0)
    assert again.record(new).lost is False
    assert "r" not in json.loads((store.directory / "kimi-code.state.json").read_text()).values()


def test_the_device_id_is_made_once_and_all_headers_are_ascii(tmp_path: Path) -> None:
    first, second = (client_headers(tmp_path, platform_name="nänokimi\r\n") for _ in range(2))
    assert first == second
    assert first["X-Msh-Platform"] == "nnokimi"
    assert all(v and v.isascii() and v.isprintable() for v in first.values())
    assert modes(tmp_path / "device_id") == 0o600
    (tmp_path / "device_id").write_text("spoiled")
    assert client_headers(tmp_path)["X-Msh-Device-Id"] not in ("spoiled", first["X-Msh-Device-Id"])


def test_a_header_is_never_empty() -> None:
    assert ascii_only("機械") == "unknown"


def _saved(store: TokenStore) -> TokenSet:
    put(store, LOGIN)
    found = store.load()
    assert found is not None
    return found


def _left_by_a_killed_writer(store: TokenStore, content: str, mark: str) -> Path:
    left = store.path.with_name(f".{store.path.name}.{mark}.0123456789ab")
    left.write_text(content)
    return left


def _renewed() -> str:
    return json.dumps({"access_token": "a-2", "refresh_token": "r-2", "expires_at": 2_000_000_000})


def test_a_renewal_that_was_killed_before_its_rename_is_finished(store: TokenStore) -> None:
    before = _saved(store)
    left = _left_by_a_killed_writer(store, _renewed(), before.fingerprint)
    store.recover()
    found = store.load()
    assert found is not None
    assert found.refresh_token.get_secret_value() == "r-2"
    assert not left.exists()


@pytest.mark.parametrize("content", ["", "\0" * 100, _renewed()[:-5]])
def test_half_a_renewal_is_thrown_away(store: TokenStore, content: str) -> None:
    before = _saved(store)
    left = _left_by_a_killed_writer(store, content, before.fingerprint)
    store.recover()
    assert store.load() == before
    assert not left.exists()


def test_a_renewal_of_another_login_is_thrown_away(store: TokenStore) -> None:
    """Somebody has logged in since: the login on disk is the newer one."""
    before = _saved(store)
    left = _left_by_a_killed_writer(store, _renewed(), "0" * 32)
    store.recover()
    assert store.load() == before
    assert not left.exists()
