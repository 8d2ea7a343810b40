from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.settings.environment import overlay, parse_value

from .conftest import PROVIDERS, Data

KEYED = """
[providers.moonshot]
base_url = "https://api.moonshot.cn/v1"
api_key = "sk-file"
[providers.relay]
type = "openai"
base_url = "https://zenmux.ai/api/v1"
"""


def test_a_variable_overrides_the_file_with_the_right_type(data: Data) -> None:
    s = data.load(
        "[host]\nmax_containers = 2\n",
        environ={
            "NANOKIMI_HOST__MAX_CONTAINERS": "9",
            "NANOKIMI_HOST__IDLE_TIMEOUT": "10m",
            "NANOKIMI_HOST__AUTO_CREATE": "false",
            "NANOKIMI_HOST__TRIGGER": "",
            "NANOKIMI_SANDBOX__CPUS": "2",
            "NANOKIMI_AGENT__ENGINE": '["kimi", "acp"]',
            "NANOKIMI_GATEWAY__KEYS": '["12345", "env:K"]',
            "NANOKIMI_SERVER__LISTEN": "[::1]:0",
        },
    )
    assert (s.host.max_containers, s.host.idle_timeout) == (9, 600.0)
    assert (s.host.auto_create, s.host.trigger) == (False, "")
    assert s.sandbox.cpus == 2.0
    assert s.agent.engine == ("kimi", "acp")
    assert [k.key.reveal({"K": "v"}) for k in s.gateway.keys] == ["12345", "v"]
    assert s.server.address == ("::1", 0)


def test_text_stays_text_even_when_it_looks_like_a_number(data: Data) -> None:
    s = data.load(
        providers=PROVIDERS + KEYED,
        environ={
            "NANOKIMI_SANDBOX__IMAGE": "20261101",
            "NANOKIMI_PROVIDERS__MOONSHOT__API_KEY": "123456",
            "NANOKIMI_HOST__TRIGGER": '"quoted"',
        },
    )
    assert s.sandbox.image == "20261101"
    assert s.providers["moonshot"].api_key.reveal() == "123456"
    assert s.host.trigger == "quoted"


def test_tables_with_names_are_reached_by_their_name_in_capitals(data: Data) -> None:
    s = data.load(
        "[groups.'team-1@example']\n",
        environ={
            "NANOKIMI_PROVIDERS__MANAGED_KIMI_CODE__BASE_URL": "http://127.0.0.1:1/v1",
            "NANOKIMI_PROVIDERS__MANAGED_KIMI_CODE__OAUTH__HOST": "http://127.0.0.1:2",
            "NANOKIMI_MODELS__KIMI_CODE__MAX_CONTEXT_SIZE": "99000",
            "NANOKIMI_GROUPS__TEAM_1_EXAMPLE__LIMITS__MEMORY": "2g",
        },
    )
    provider = s.providers["managed:kimi-code"]
    assert (provider.base_url, provider.oauth_host) == (
        "http://127.0.0.1:1/v1",
        "http://127.0.0.1:2",
    )
    assert s.models["kimi-code"].max_context_size == 99_000
    assert s.for_group("team-1@example").limits.memory == 2 << 30


def test_variables_that_are_not_about_the_config_are_left_alone(data: Data) -> None:
    data.load(
        environ={
            "NANOKIMI_DATA": "/x",
            "NANOKIMI_REQUIRE_DOCKER": "1",
            "NANOKIMI_LOG_LEVEL": "debug",
            "NANOKIMI_RUN_DIR": "/run",
            "OTHER__THING": "1",
        }
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("NANOKIMI_HOST__MAX_QUEU", "host.max_queue"),
        ("NANOKIMI_HSOT__MAX_QUEUE", "host"),
        ("NANOKIMI_PROVIDERS__KIMI__API_KEY", 'providers."managed:kimi-code"'),
        ("NANOKIMI_HOST__MEMORY", "sandbox.memory"),
    ],
)
def test_a_variable_that_names_no_key_is_an_error_with_the_nearest(
    data: Data, name: str, nearest: str
) -> None:
    error = data.refused(environ={name: "1"})
    assert f"environment variable {name} names no key" in error.message
    assert f"the nearest is {nearest}" in error.message


def test_a_wrong_value_from_a_variable_names_the_variable(data: Data) -> None:
    error = data.refused(environ={"NANOKIMI_HOST__MAX_QUEUE": "many"})
    assert (
        "host.max_queue (from the environment variable NANOKIMI_HOST__MAX_QUEUE)" in error.message
    )


def test_the_older_names_for_kimi_code_still_work_and_a_key_replaces_the_login(data: Data) -> None:
    s = data.load(
        environ={
            "PICOCLAW_PROVIDERS_KIMI_CODE_API_KEY": "sk-env",
            "PICOCLAW_PROVIDERS_KIMI_CODE_API_BASE": "http://127.0.0.1:1/v1",
        }
    )
    provider = s.providers["managed:kimi-code"]
    assert provider.api_key.reveal() == "sk-env"
    assert provider.base_url == "http://127.0.0.1:1/v1"
    assert provider.oauth is None


def test_our_own_name_wins_over_the_older_one(data: Data) -> None:
    s = data.load(
        environ={
            "PICOCLAW_PROVIDERS_KIMI_CODE_API_BASE": "http://127.0.0.1:1/v1",
            "NANOKIMI_PROVIDERS__MANAGED_KIMI_CODE__BASE_URL": "http://127.0.0.1:2/v1",
            "KIMI_OAUTH_HOST": "http://127.0.0.1:3",
            "KIMI_CODE_OAUTH_HOST": "http://127.0.0.1:4",
        }
    )
    provider = s.providers["managed:kimi-code"]
    assert provider.base_url == "http://127.0.0.1:2/v1"
    assert provider.oauth_host == "http://127.0.0.1:4"


def test_either_name_of_the_login_server_is_enough(data: Data) -> None:
    for name in ("KIMI_OAUTH_HOST", "KIMI_CODE_OAUTH_HOST"):
        s = data.load(environ={name: "http://127.0.0.1:3/"})
        assert s.providers["managed:kimi-code"].oauth_host == "http://127.0.0.1:3"


def test_the_older_names_of_the_open_platform_and_the_relay_reach_their_providers(
    data: Data,
) -> None:
    s = data.load(
        providers=PROVIDERS + KEYED,
        environ={"MOONSHOT_BASE_URL": "https://api.moonshot.ai/v1", "ZENMUX_API_KEY": "zen"},
    )
    assert s.providers["moonshot"].base_url == "https://api.moonshot.ai/v1"
    assert s.providers["relay"].api_key.reveal() == "zen"
    assert s.providers["managed:kimi-code"].base_url == "https://api.kimi.com/coding/v1"


def test_older_names_for_the_listening_address_are_taken_with_a_warning(data: Data) -> None:
    s = data.load(environ={"PROXY_HOST": "0.0.0.0", "PROXY_PORT": "8000"})
    assert s.server.address == ("0.0.0.0", 8000)
    assert any("PROXY_HOST" in w for w in s.warnings)
    s = data.load("[server]\nlisten = '[::1]:9000'\n", environ={"PROXY_PORT": "8000"})
    assert s.server.address == ("::1", 8000)
    s = data.load(environ={"PROXY_PORT": "8000", "NANOKIMI_SERVER__LISTEN": "127.0.0.1:1"})
    assert s.server.address == ("127.0.0.1", 1)


def test_the_file_is_not_changed_in_memory_either() -> None:
    raw = {"host": {"max_queue": 1}, "providers": {"kimi-code": {"oauth": {"key": "a"}}}}
    before = copy.deepcopy(raw)
    overlay(raw, {"NANOKIMI_HOST__MAX_QUEUE": "2", "PICOCLAW_PROVIDERS_KIMI_CODE_API_KEY": "k"})
    assert raw == before


@given(st.text())
def test_any_value_is_a_literal_or_the_text_itself(value: str) -> None:
    parsed = parse_value(value, text=True)
    assert isinstance(parsed, str)
    parse_value(value, text=False)


def test_a_value_cannot_smuggle_in_a_second_key() -> None:
    assert parse_value("1\nother = 2", text=False) == "1\nother = 2"


@given(
    st.dictionaries(
        st.sampled_from(["host", "providers", "groups", "server"]),
        st.one_of(st.integers(), st.text(), st.dictionaries(st.text(), st.integers())),
    ),
    st.dictionaries(
        st.one_of(
            st.sampled_from(["PROXY_HOST", "PROXY_PORT", "KIMI_OAUTH_HOST", "MOONSHOT_BASE_URL"]),
            st.text("ABHOSTGRUPVIDE_").map("NANOKIMI_".__add__),
        ),
        st.text(),
    ),
)
def test_no_mix_of_file_and_variables_raises(
    raw: dict[str, object], environ: dict[str, str]
) -> None:
    overlay(raw, environ)
