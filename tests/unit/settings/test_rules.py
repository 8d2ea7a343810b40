from __future__ import annotations

import pytest

from runner.settings.catalog import Service, service_of

from .conftest import MODELS, PROVIDERS, Data

KEY_MODELS = '[models.m]\nprovider = "moonshot"\nmodel = "kimi-k2.6"\nmax_context_size = 262144\n'
KEY_PROVIDERS = """
[providers.moonshot]
type = "kimi"
base_url = "https://api.moonshot.cn/v1"
api_key = "sk-1"
"""
KEY_TOP = 'default_model = "m"\n'


def test_asking_for_the_upstream_id_names_its_alias(data: Data) -> None:
    error = data.refused(top='default_model = "kimi-for-coding"\n')
    assert "default_model" in error.message
    assert 'upstream id; its alias is "kimi-code"' in error.message
    assert error.hint == 'write "kimi-code"'


def test_an_unknown_alias_names_the_nearest(data: Data) -> None:
    error = data.refused(top='default_model = "kimi-cod"\n')
    assert "there is no [models.kimi-cod]" in error.message
    assert error.hint == 'did you mean "kimi-code"?'


def test_an_empty_config_says_that_a_model_is_missing(data: Data) -> None:
    error = data.refused(top="", models="", providers="")
    assert "there is no [models.kimi-code]" in error.message
    assert "add a [models.NAME] table" in error.hint


def test_a_groups_model_is_checked_as_well(data: Data) -> None:
    error = data.refused('[groups.a]\nmodel = "kimi-for-coding"\n')
    assert "groups.a.model is" in error.message
    assert error.hint == 'write "kimi-code"'


def test_a_model_names_a_provider_that_exists(data: Data) -> None:
    error = data.refused(models=MODELS.replace("managed:kimi-code", "managed:kimi"))
    assert "models.kimi-code.provider is" in error.message
    assert error.hint == 'did you mean "managed:kimi-code"?'


def test_the_capability_tool_call_is_named_with_the_valid_list(data: Data) -> None:
    error = data.refused(models=MODELS.replace('["thinking"]', '["thinking", "tool_call"]'))
    assert 'models.kimi-code.capabilities[1] is "tool_call"' in error.message
    assert error.hint == "remove it; valid are image_in, video_in, thinking, always_thinking"


def test_an_unknown_capability_names_the_nearest(data: Data) -> None:
    error = data.refused(models=MODELS.replace('["thinking"]', '["image"]'))
    assert 'did you mean "image_in"?' in error.hint


@pytest.mark.parametrize(
    "key",
    [
        "/home/me/.kimi/credentials/kimi-code.json",
        "~/.kimi/credentials/kimi-code.json",
        "C:/kimi-code.json",
        "oauth/kimi-code.json",
        "oauth\\\\kimi-code",
        "oauth/../../kimi-code",
        "oauth/",
        "",
        "oauth/.hidden",
        "oauth/a b",
    ],
)
def test_an_oauth_key_is_a_relative_safe_name(data: Data, key: str) -> None:
    error = data.refused(providers=PROVIDERS.replace("oauth/kimi-code", key))
    assert 'providers."managed:kimi-code".oauth.key' in error.message
    assert 'write "oauth/kimi-code"' in error.hint


def test_the_last_component_of_the_key_names_the_token_file(data: Data) -> None:
    s = data.load(providers=PROVIDERS.replace("oauth/kimi-code", "a/b/my-login"))
    oauth = s.providers["managed:kimi-code"].oauth
    assert oauth is not None
    assert oauth.credential_file == "my-login.json"


def test_only_file_storage_is_known(data: Data) -> None:
    error = data.refused(providers=PROVIDERS.replace('"file"', '"keyring"'))
    assert 'oauth.storage is "keyring"' in error.message
    assert error.hint == 'write "file"'


def test_two_logins_never_share_a_file(data: Data) -> None:
    other = PROVIDERS.replace("managed:kimi-code", "second").replace("oauth/kimi", "other/kimi")
    error = data.refused(providers=PROVIDERS + other)
    assert "shares the file kimi-code.json" in error.message


def test_key_and_login_together_are_an_error(data: Data) -> None:
    error = data.refused(providers=PROVIDERS.replace('api_key = ""', 'api_key = "sk-1"'))
    assert 'providers."managed:kimi-code".api_key is set, and oauth too' in error.message
    assert 'api_key = ""' in error.hint
    assert "sk-1" not in error.message


def test_a_provider_in_use_needs_a_key_or_a_login(data: Data) -> None:
    without = PROVIDERS.replace("oauth =", "#")
    error = data.refused(providers=without)
    assert 'has neither oauth nor api_key, and the model "kimi-code" needs it' in error.message
    assert "nanokimi login" in error.hint


def test_a_provider_that_nobody_uses_needs_no_key(data: Data) -> None:
    data.load(providers=PROVIDERS + KEY_PROVIDERS.replace("sk-1", ""))


def test_a_provider_is_in_use_when_one_group_asks_for_it(data: Data) -> None:
    error = data.refused(
        '[groups.a]\nmodel = "m"\n',
        models=MODELS + KEY_MODELS,
        providers=PROVIDERS + KEY_PROVIDERS.replace("sk-1", ""),
    )
    assert 'providers.moonshot has neither oauth nor api_key, and the model "m"' in error.message


def test_an_api_key_of_the_open_platform_works(data: Data) -> None:
    s = data.load(top=KEY_TOP, models=KEY_MODELS, providers=KEY_PROVIDERS)
    assert s.providers["moonshot"].api_key.reveal() == "sk-1"
    assert s.warnings == ()


@pytest.mark.parametrize(
    ("base_url", "right"),
    [
        ("https://api.kimi.com/v1", "https://api.kimi.com/coding/v1"),
        ("https://api.kimi.com", "https://api.kimi.com/coding/v1"),
        ("https://api.kimi.com/coding", "https://api.kimi.com/coding/v1"),
        ("http://api.kimi.com/coding/v1", "https://api.kimi.com/coding/v1"),
        ("https://www.kimi.com/coding/v1", "https://api.kimi.com/coding/v1"),
        ("https://platform.moonshot.cn/v1", "https://api.moonshot.cn/v1"),
        ("https://API.moonshot.ai/v2", "https://api.moonshot.ai/v1"),
    ],
)
def test_a_wrong_base_url_of_the_vendor_names_the_right_one(
    data: Data, base_url: str, right: str
) -> None:
    error = data.refused(providers=PROVIDERS.replace("https://api.kimi.com/coding/v1", base_url))
    assert 'providers."managed:kimi-code".base_url' in error.message
    assert right in error.message + error.hint


def test_a_slash_at_the_end_of_a_base_url_is_no_difference(data: Data) -> None:
    s = data.load(providers=PROVIDERS.replace("/coding/v1", "/coding/v1/"))
    assert s.providers["managed:kimi-code"].base_url == "https://api.kimi.com/coding/v1"


@pytest.mark.parametrize("model", ["kimi-k2.6", "kimi-k3", "kimi-k2.5", "moonshot-v1-8k"])
def test_a_model_of_the_open_platform_does_not_go_with_kimi_code(data: Data, model: str) -> None:
    error = data.refused(models=MODELS.replace("kimi-for-coding", model))
    assert f'models.kimi-code.model is "{model}"' in error.message
    assert "kimi-for-coding" in error.hint
    assert "https://api.moonshot.cn/v1" in error.hint


@pytest.mark.parametrize("model", ["kimi-for-coding", "k3", "k3-256k"])
@pytest.mark.parametrize("host", ["api.moonshot.cn", "api.moonshot.ai"])
def test_a_kimi_code_model_does_not_go_with_the_open_platform(
    data: Data, model: str, host: str
) -> None:
    error = data.refused(
        top=KEY_TOP,
        models=KEY_MODELS.replace("kimi-k2.6", model),
        providers=KEY_PROVIDERS.replace("api.moonshot.cn", host),
    )
    assert f'models.m.model is "{model}", a model of Kimi Code' in error.message
    assert "https://api.kimi.com/coding/v1" in error.hint


def test_a_kimi_code_login_does_not_go_with_the_open_platform(data: Data) -> None:
    login = 'oauth = { storage = "file", key = "oauth/kimi-code" }'
    error = data.refused(
        top=KEY_TOP,
        models=KEY_MODELS,
        providers=KEY_PROVIDERS.replace('api_key = "sk-1"', login),
    )
    assert "providers.moonshot.oauth is a Kimi Code login" in error.message
    assert "https://api.kimi.com/coding/v1" in error.hint


def test_the_open_platform_needs_a_provider_table_of_its_own(data: Data) -> None:
    error = data.refused(
        top=KEY_TOP,
        models=KEY_MODELS.replace("moonshot", "managed:kimi-code"),
        providers=KEY_PROVIDERS.replace(".moonshot]", '."managed:kimi-code"]'),
    )
    assert 'providers."managed:kimi-code" is the name of Kimi Code' in error.message
    assert "[providers.moonshot]" in error.hint


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:8123/coding/v1",
        "https://zenmux.ai/api/v1",
        "http://[::1]:9/v1",
        "https://notkimi.com/v1",
    ],
)
@pytest.mark.parametrize("model", ["kimi-for-coding", "kimi-k2.6", "anything"])
def test_other_hosts_are_never_judged(data: Data, base_url: str, model: str) -> None:
    data.load(
        models=MODELS.replace("kimi-for-coding", model),
        providers=PROVIDERS.replace("https://api.kimi.com/coding/v1", base_url),
    )


@pytest.mark.parametrize("base_url", ["api.kimi.com", "ftp://x/v1", "https://", "https://u:p@x/v1",
                                      "https://x/v1?key=1", "https://x:99999/v1", "https://x y/v1",
                                      "http://[::1/v1"])  # fmt: skip
def test_a_base_url_must_be_a_plain_http_url(data: Data, base_url: str) -> None:
    error = data.refused(providers=PROVIDERS.replace("https://api.kimi.com/coding/v1", base_url))
    assert 'providers."managed:kimi-code".base_url' in error.message
    assert "https://api.kimi.com/coding/v1" in error.hint


@pytest.mark.parametrize(
    ("model", "successor"),
    [("kimi-latest", "kimi-k2.6"), ("kimi-k2.5", "kimi-k2.6"), ("moonshot-v1-32k", "kimi-k2.6")],
)
def test_a_retired_model_is_a_warning_that_names_its_successor(
    data: Data, model: str, successor: str
) -> None:
    s = data.load(
        top=KEY_TOP, models=KEY_MODELS.replace("kimi-k2.6", model), providers=KEY_PROVIDERS
    )
    assert len(s.warnings) == 1
    assert f'"{model}", which was retired on 2026-' in s.warnings[0]
    assert f'"{successor}"' in s.warnings[0]


def test_a_renamed_model_is_a_warning_too(data: Data) -> None:
    s = data.load(models=MODELS.replace("kimi-for-coding", "kimi-coding"))
    assert "was renamed" in s.warnings[0]
    assert '"kimi-for-coding"' in s.warnings[0]


def test_keys_that_are_read_and_not_used_are_warnings(data: Data) -> None:
    s = data.load("[services.moonshot_fetch]\nbase_url = 'https://x/v1'\n",
                  providers=PROVIDERS + "env = { A = 'b' }\n")  # fmt: skip
    assert any("services.moonshot_fetch" in w for w in s.warnings)
    assert any(".env is set" in w for w in s.warnings)


def test_the_reserve_must_fit_into_the_context(data: Data) -> None:
    error = data.refused(models=MODELS.replace("200000", "50000"))
    assert "models.kimi-code.max_context_size is 50000" in error.message
    assert error.hint == "lower reserved_context_size"


def test_a_fallback_that_no_entry_defines_is_named(data: Data) -> None:
    entry = (
        '[[model_list]]\nmodel_name = "deepseek"\nmodel = "deepseek/deepseek-chat"\n'
        'api_key = "k"\nfallbacks = ["kimi-code", "gpt4-backup"]\n'
    )
    error = data.refused(entry)
    assert 'model_list[0].fallbacks names "gpt4-backup", which no model_list' in error.message
    data.load(entry.replace("gpt4-backup", "openai/gpt-4o"))


def test_a_route_to_nowhere_is_named(data: Data) -> None:
    error = data.refused('[routes.fast]\nchain = ["kimi-cod"]\n')
    assert 'routes.fast.chain names "kimi-cod"' in error.message
    assert error.hint == 'did you mean "kimi-code"?'


def test_a_model_list_has_the_fields_of_its_source(data: Data) -> None:
    s = data.load(
        '[[model_list]]\nmodel_name = "kimi"\nmodel = "kimi-code/kimi-coding"\n'
        'api_key = "sk-1"\napi_base = "https://api.kimi.com/coding/v1"\n'
        'proxy = "http://localhost:7890"\ncooldown = "90s"\n'
    )
    entry = s.model_list[0]
    assert (entry.model_name, entry.model) == ("kimi", "kimi-code/kimi-coding")
    assert (entry.proxy, entry.cooldown) == ("http://localhost:7890", 90.0)


def test_a_model_list_entry_without_a_key_is_refused(data: Data) -> None:
    error = data.refused('[[model_list]]\nmodel_name = "x"\nmodel = "a/b"\napi_key = ""\n')
    assert "model_list[0].api_key is empty" in error.message


def test_headers_that_http_cannot_carry_are_refused(data: Data) -> None:
    for headers in ('"X Y" = "1"', 'X = "a\\r\\nB: c"', 'X = "ü"'):
        error = data.refused(providers=PROVIDERS + f"custom_headers = {{ {headers} }}\n")
        assert "custom_headers holds" in error.message


def test_services_are_told_apart_by_host_alone() -> None:
    assert service_of("https://API.KIMI.com./coding/v1") is Service.KIMI_CODE
    assert service_of("https://api.moonshot.ai:443/v1") is Service.OPEN_PLATFORM
    assert service_of("https://api.kimi.com.example.org/coding/v1") is None


def test_an_open_sandbox_cannot_call_an_anthropic_api(data: Data) -> None:
    providers = (
        '[providers.claude]\ntype = "anthropic"\nbase_url = "https://example.org"\n'
        'api_key = "sk-1"\n'
    )
    models = '[models.claude]\nprovider = "claude"\nmodel = "some-model"\n'
    parts = {"top": 'default_model = "claude"\n', "models": models, "providers": providers}
    assert data.load(**parts).for_group("g").network == "isolated"
    error = data.refused('[sandbox]\nnetwork = "open"\n', **parts)
    assert "sandbox.network is open" in error.message
    error = data.refused('[groups.a]\nnetwork = "open"\n', **parts)
    assert "groups.a.network is open" in error.message
    assert "isolated" in error.hint


def test_a_tool_that_the_host_does_not_have_is_named(data: Data) -> None:
    error = data.refused("[groups.g]\ntools = { web_serch = false }\n")
    assert "groups.g.tools.web_serch is not a tool of the host" in error.message
    assert "web_search" in error.hint


def test_a_search_service_that_is_asked_for_must_be_there(data: Data) -> None:
    error = data.refused('[tools.web_search]\nengine = "moonshot"\n')
    assert "there is no [services.moonshot_search]" in error.message


def test_a_time_zone_must_exist(data: Data) -> None:
    error = data.refused('[tools.schedule_task]\ntimezone = "Mars/Base"\n')
    assert "must be a time zone" in error.message


def test_people_have_roles_and_a_group_its_own(data: Data) -> None:
    s = data.load(
        '[people]\nroles = { a = "owner", b = "blocked" }\n[groups.g]\nroles = { b = "admin" }\n'
    )
    assert s.for_group("g").roles == {"a": "owner", "b": "admin"}
    assert s.for_group("h").roles == {"a": "owner", "b": "blocked"}
