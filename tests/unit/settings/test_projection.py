from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ConfigError, LoginRequiredError
from runner.sandbox import spawner
from runner.settings.container import (
    ContainerSettings,
    load_container_settings,
    parse_container_settings,
    read_token,
)
from runner.settings.projection import HOST_SOCKET, project_config, project_credentials
from runner.settings.schema import Settings

from .conftest import MODELS, PROVIDERS, Data

OTHERS = """
[providers.moonshot]
base_url = "https://api.moonshot.cn/v1"
api_key = "sk-other-secret"
custom_headers = { X-Team = "chat", A-First = "1" }
"""
OTHER_MODEL = """
[models.m]
provider = "moonshot"
model = "kimi-k2.6"
max_context_size = 262144
capabilities = ["thinking", "image_in"]
"""
HOST = """
[host]
max_queue = 7
[gateway]
keys = ["gw-secret"]
[loop_control]
max_attempts_per_step = 6
max_steps_per_turn = 9
[groups.keyed]
model = "m"
"""


def settings(data: Data) -> Settings:
    return data.load(HOST, models=MODELS + OTHER_MODEL, providers=PROVIDERS + OTHERS)


def into(home: Path, text: str) -> ContainerSettings:
    (home / ".kimi").mkdir(exist_ok=True)
    (home / ".kimi" / "config.toml").write_text(text, "utf-8")
    return load_container_settings(home)


def test_an_isolated_agent_reads_what_the_host_meant(data: Data, tmp_path: Path) -> None:
    s = settings(data)
    got = into(tmp_path, project_config(s, s.for_group("a"), isolated=True))
    assert (got.alias, got.model) == ("kimi-code", "kimi-for-coding")
    assert (got.max_context_size, got.capabilities) == (200_000, frozenset({"thinking"}))
    assert (got.base_url, got.model_socket) == ("http://nanokimi.internal/v1", HOST_SOCKET)
    assert got.custom_headers == {}
    assert got.credential_file == tmp_path / ".kimi" / "credentials" / "kimi-code.json"
    assert (got.loop.max_retries_per_step, got.loop.max_steps_per_turn) == (5, 9)
    assert got.loop.reserved_context_size == 50_000


def test_an_open_agent_calls_its_provider_with_the_headers(data: Data, tmp_path: Path) -> None:
    s = settings(data)
    got = into(tmp_path, project_config(s, s.for_group("keyed"), isolated=False))
    assert (got.model, got.base_url) == ("kimi-k2.6", "https://api.moonshot.cn/v1")
    assert got.custom_headers == {"X-Team": "chat", "A-First": "1"}
    assert got.model_socket == ""


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("group", ["a", "keyed"])
def test_a_projection_holds_no_secret_and_nothing_of_others(
    data: Data, group: str, isolated: bool
) -> None:
    s = settings(data)
    of_group = s.for_group(group)
    text = project_config(s, of_group, isolated=isolated)
    assert "secret" not in text
    table = tomllib.loads(text)
    assert list(table["models"]) == [of_group.alias]
    assert list(table["providers"]) == [of_group.provider_name]
    assert table["providers"][of_group.provider_name]["api_key"] == ""
    allowed = {
        "default_model", "default_thinking", "default_yolo", "models", "providers",
        "loop_control", "services", "nanokimi",
    }  # fmt: skip
    assert set(table) <= allowed
    assert table["services"] == {}


def test_a_projection_is_byte_stable(data: Data) -> None:
    s = settings(data)
    first = project_config(s, s.for_group("keyed"), isolated=False)
    shuffled = OTHERS.replace('X-Team = "chat", A-First = "1"', 'A-First = "1", X-Team = "chat"')
    again = data.load(HOST, models=OTHER_MODEL + MODELS, providers=shuffled + PROVIDERS)
    assert project_config(again, again.for_group("keyed"), isolated=False) == first


def test_names_that_need_quotes_survive_the_round_trip(data: Data, tmp_path: Path) -> None:
    alias = 'my "model".x = [1] 🦊'
    s = data.load(
        top=f"default_model = '{alias}'\n",
        models=MODELS.replace("[models.kimi-code]", f"[models.'{alias}']"),
    )
    assert into(tmp_path, project_config(s, s.for_group("a"), isolated=True)).alias == alias


def test_a_key_travels_in_the_credential_file_and_is_found_there(
    data: Data, tmp_path: Path
) -> None:
    s = settings(data)
    for group in ("a", "keyed"):
        of_group = s.for_group(group)
        got = into(tmp_path, project_config(s, of_group, isolated=False))
        files = project_credentials(of_group.provider, "token-1", 1770658583.17)
        assert list(files) == [got.credential_file.name]
        got.credential_file.parent.mkdir(exist_ok=True)
        got.credential_file.write_text(files[got.credential_file.name])
        assert read_token(got.credential_file) == "token-1"


def test_a_projected_credential_has_all_fields_and_no_refresh_token(data: Data) -> None:
    (text,) = project_credentials(data.load().for_group("a").provider, "t", 12.5).values()
    assert json.loads(text) == {
        "access_token": "t",
        "refresh_token": "",
        "expires_at": 12.5,
        "scope": "kimi-code",
        "token_type": "Bearer",
    }


def test_host_and_sandbox_mean_the_same_socket() -> None:
    assert HOST_SOCKET == spawner.HOST_SOCKET


def test_an_agent_without_a_config_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_container_settings(tmp_path)
    assert str(tmp_path / ".kimi" / "config.toml") in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"\xff", b"a = ", b"[", b"a = " + b"[" * 5000])
def test_an_agent_refuses_a_config_that_is_not_toml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".kimi").mkdir()
    (tmp_path / ".kimi" / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_container_settings(tmp_path)


def test_an_agent_says_which_table_its_model_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'\[models\."x"\] is not in the config \(there: y\)'):
        parse_container_settings({"default_model": "x", "models": {"y": {}}}, tmp_path)


junk = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(["a", "provider", "oauth", "key", "capabilities", "custom_headers"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {
            "default_model": st.just("a"),
            "models": st.one_of(
                junk, st.fixed_dictionaries({"a": st.dictionaries(st.just("provider"), junk)})
            ),
            "providers": st.fixed_dictionaries(
                {"": junk, "a": st.just({"oauth": {"key": "oauth/x"}})}
            ),
            "loop_control": junk,
            "nanokimi": junk,
        }
    )
)
def test_an_agent_reads_any_table_or_refuses_it_with_a_config_error(raw: dict[str, object]) -> None:
    try:
        parse_container_settings(raw, Path("/home/agent"))
    except ConfigError:
        return


@pytest.mark.parametrize(
    "content", ["", "[]", "3", '{"access_token": ""}', '{"access_token": "a\\nb"}', '"x"', "{"]
)
def test_a_credential_without_a_token_asks_for_a_login(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(LoginRequiredError) as caught:
        read_token(tmp_path / "t.json")
    assert "nanokimi login" in caught.value.hint
