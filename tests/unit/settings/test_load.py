from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import ConfigError
from runner.settings.layout import Layout
from runner.settings.load import load_settings, parse_settings, parse_toml
from runner.settings.schema import Settings

from .conftest import WORKING, Data

# The config of the older system that people bring along, word for word.
BROUGHT_ALONG = """
default_model = "kimi-code"
default_thinking = false
default_yolo = true
[models.kimi-code]
provider = "managed:kimi-code"
model = "kimi-latest"
max_context_size = 200000
capabilities = ["thinking"]
[providers."managed:kimi-code"]
type = "kimi"
base_url = "https://api.kimi.com/coding/v1"
api_key = ""
[providers."managed:kimi-code".oauth]
storage = "file"
key = "oauth/kimi-code"
[loop_control]
max_steps_per_turn = 100
max_retries_per_step = 3
max_ralph_iterations = 0
reserved_context_size = 50000
[services]
"""


def test_the_defaults_are_those_that_are_promised(data: Data) -> None:
    s = data.load()
    assert (s.default_model, s.default_thinking, s.default_yolo) == ("kimi-code", False, True)
    host = s.host
    assert (host.max_containers, host.idle_timeout, host.turn_timeout) == (5, 1800.0, 1800.0)
    assert (host.max_attempts, host.trigger, host.max_queue) == (5, "@kimi", 100)
    assert (host.auto_create, host.grace) == (True, 20.0)
    box = s.sandbox
    assert (box.backend, box.image, box.network) == ("auto", "nanokimi-agent", "isolated")
    assert (box.memory, box.cpus, box.pids, box.mounts_allowlist) == (1 << 30, 1.0, 256, ())
    assert (box.start_timeout, box.stop_grace) == (60.0, 5.0)
    assert s.server.address == ("127.0.0.1", 8420)
    assert not s.server.public_url
    assert not s.store.url
    assert (s.gateway.keys, s.gateway.thinking_repair, s.gateway.cache) == ((), True, "auto")
    loop = s.loop_control
    assert (loop.max_steps_per_turn, loop.retries) == (100, 3)
    assert (loop.max_ralph_iterations, loop.reserved_context_size) == (0, 50_000)
    assert s.agent.engine == ()
    assert s.warnings == ()


def test_a_model_without_a_size_has_200000_tokens(data: Data) -> None:
    models = '[models.kimi-code]\nprovider = "managed:kimi-code"\nmodel = "k3"\n'
    assert data.load(models=models).models["kimi-code"].max_context_size == 200_000


def test_a_config_of_the_older_system_loads_with_a_warning_for_its_retired_model(
    data: Data,
) -> None:
    data.path.write_text(BROUGHT_ALONG)
    s = load_settings(data.root, {})
    assert s.models["kimi-code"].model == "kimi-latest"
    provider = s.providers["managed:kimi-code"]
    assert provider.oauth is not None
    assert provider.oauth.credential_file == "kimi-code.json"
    assert provider.oauth_host == "https://auth.kimi.com"
    assert len(s.warnings) == 1
    assert "kimi-latest" in s.warnings[0]
    assert '"kimi-for-coding"' in s.warnings[0]


def test_settings_are_frozen(data: Data) -> None:
    s = data.load()
    with pytest.raises(ValueError, match="frozen"):
        s.host.max_containers = 6  # type: ignore[misc]  # that is the point


def test_a_layout_a_directory_and_a_file_mean_the_same(data: Data) -> None:
    by_directory = data.load("[host]\nmax_queue = 7\n")
    assert load_settings(Layout(data.root), {}) == by_directory
    assert load_settings(data.path, {}) == by_directory


def test_a_missing_config_names_the_file_and_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path, {})
    assert str(tmp_path / "config.toml") in caught.value.message
    assert "nanokimi init" in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_config_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(Layout(tmp_path), {})


def test_a_config_among_the_credentials_is_refused_with_the_move_that_mends_it(
    data: Data,
) -> None:
    credentials = data.root / "credentials"
    credentials.mkdir()
    (credentials / "config.toml").write_text(WORKING)
    with pytest.raises(ConfigError) as caught:
        load_settings(data.root, {})
    assert "credentials directory" in caught.value.message
    assert caught.value.hint == f"move it: mv {credentials}/config.toml {data.path}"
    with pytest.raises(ConfigError, match="credentials directory"):
        load_settings(credentials / "config.toml", {})
    data.path.write_text(WORKING)
    with pytest.raises(ConfigError) as caught:
        load_settings(data.root, {})
    assert caught.value.hint == f"remove {credentials}/config.toml"


def test_a_link_into_the_credentials_directory_is_refused(data: Data) -> None:
    credentials = data.root / "credentials"
    credentials.mkdir()
    (credentials / "other.toml").write_text(WORKING)
    data.path.symlink_to("credentials/other.toml")
    with pytest.raises(ConfigError, match="credentials directory"):
        load_settings(data.root, {})


def test_a_toml_mistake_names_line_and_column(data: Data) -> None:
    error = data.refused(top='default_model = "kimi-code"\ndefault_yolo = yes\n')
    assert "line 2, column 16" in error.message
    assert "quotes" in error.hint


def test_a_table_that_appears_twice_is_said_to_be_one(data: Data) -> None:
    error = data.refused("[host]\nmax_queue = 1\n[host]\n")
    assert "line" in error.message
    assert "only once" in error.hint


def test_bytes_that_are_not_utf8_are_refused_with_their_line(data: Data) -> None:
    data.path.write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(ConfigError, match=r"not UTF-8 \(line 2\)"):
        load_settings(data.root, {})


def test_a_config_too_large_to_be_one_is_refused(data: Data) -> None:
    data.path.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_settings(data.root, {})


@pytest.mark.parametrize(
    ("extra", "key", "nearest"),
    [
        ("[host]\nmax_container = 5\n", "host.max_container", "host.max_containers"),
        ("[sandbox]\nnetwrok = 'open'\n", "sandbox.netwrok", "sandbox.network"),
        ("[hots]\n", "hots", "host"),
        ("[host]\nmemory = '1g'\n", "host.memory", "sandbox.memory"),
        ('[groups."a b"]\nmodl = "kimi-code"\n', 'groups."a b".modl', 'groups."a b".model'),
        (
            '[groups.a]\nlimits = { mem = "1g" }\n',
            "groups.a.limits.mem",
            "groups.a.limits.memory",
        ),
        (
            '[[model_list]]\nmodel_name = "x"\nmodel = "y/z"\napi_key = "k"\nbase = ""\n',
            "model_list[0].base",
            "model_list[0].api_base",
        ),
    ],
)
def test_an_unknown_key_names_its_path_and_the_nearest_known_key(
    data: Data, extra: str, key: str, nearest: str
) -> None:
    error = data.refused(extra)
    assert f"{key} is not a known key; the nearest is {nearest}" in error.message
    assert error.hint


def test_a_key_like_no_other_still_gets_a_nearest_key_and_the_list(data: Data) -> None:
    error = data.refused("[store]\nzzz = 1\n")
    assert "store.zzz is not a known key; the nearest is store.url" in error.message
    assert "known here: keep_files, keep_messages, url" in error.hint


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ('[host]\nmax_containers = "5"\n', "host.max_containers must be a whole number, not text"),
        ("[host]\nmax_containers = 2.5\n", "host.max_containers must be a whole number"),
        ("[host]\nmax_containers = 0\n", "host.max_containers must be at least 1"),
        ('[host]\nauto_create = "yes"\n', "host.auto_create must be true or false, not text"),
        ("[host]\ntrigger = true\n", "host.trigger must be text, not true or false"),
        ("[host]\nidle_timeout = 'soon'\n", 'host.idle_timeout must be a duration, not "soon"'),
        ("[host]\nidle_timeout = 0\n", "host.idle_timeout must be more than 0"),
        ("[sandbox]\nmemory = '1x'\n", 'sandbox.memory must be a size, not "1x"'),
        ("[sandbox]\nmemory = '1m'\n", "sandbox.memory must be at least 33554432"),
        ("[sandbox]\ncpus = nan\n", "sandbox.cpus must be"),
        ("[sandbox]\nnetwork = 'full'\n", 'sandbox.network is "full"'),
        ("[sandbox]\nbackend = 'podman'\n", 'sandbox.backend is "podman"'),
        ("[server]\nlisten = '8420'\n", 'server.listen is "8420", not an address'),
        ("[server]\nlisten = '127.0.0.1:99999'\n", "server.listen is"),
        ("[store]\nurl = 'mysql://x'\n", "store.url must begin with postgresql://"),
        ("[store]\nurl = 'sqlite:///x'\n", "store.url must begin with postgresql://"),
        ("[store]\nurl = 'postgres://x/y'\n", "store.url begins with postgres://"),
        ("[agent]\nengine = 'kimi'\n", "agent.engine must be a list of words"),
        ("[agent]\nengine = []\n", "agent.engine must be a list of at least one word"),
        ("[routes.mine]\nchain = []\n", "routes.mine.chain is missing"),
        ("[routes.mine]\n", "routes.mine.chain is missing"),
        ("[routes]\nfast = 3\n", "routes.fast must be a table, not a number"),
        ("[groups.a]\nmounts = 'x'\n", "groups.a.mounts must be a list, not text"),
        ('[groups.""]\n', 'groups."" must have at least 1 character'),
        (f'[groups."{"x" * 257}"]\n', "must have at most 256 characters"),
    ],
)
def test_a_wrong_value_names_its_key_and_what_is_expected(
    data: Data, extra: str, said: str
) -> None:
    error = data.refused(extra)
    assert said in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("extra", "fix"),
    [
        ('[delivery]\nwebhook = "bot"\n', "https://bot.example.com/answers"),
        ('[groups.a]\nwebhook = "bot"\n', "https://bot.example.com/answers"),
        ('[people]\nroles = { ada = "king" }\n', "write one of 'owner', 'admin', 'member'"),
    ],
)
def test_the_fix_of_a_wrong_value_is_of_its_key(data: Data, extra: str, fix: str) -> None:
    assert fix in data.refused(extra).hint


def test_group_ids_of_any_text_are_fine(data: Data) -> None:
    ids = ["../etc/passwd", "группа 🦊", "a/b\\c", "Team", "team", "x" * 256]
    extra = "".join(f"[groups.'{i}']\nadmin = true\n" for i in ids)
    assert set(data.load(extra).groups) == set(ids)


def test_all_mistakes_are_listed_at_once_with_their_fixes(data: Data) -> None:
    error = data.refused("[host]\nmax_queue = 0\nidle_timeout = 'x'\n[sandbox]\npidz = 1\n")
    assert "3 mistakes" in error.message
    for part in ("host.max_queue", "host.idle_timeout", "sandbox.pidz", 'write "90s"'):
        assert part in error.message


def test_more_than_ten_mistakes_are_counted_not_listed(data: Data) -> None:
    error = data.refused("[host]\n" + "".join(f"wrong{i} = 1\n" for i in range(25)))
    assert error.message.count("is not a known key") == 10
    assert "and 15 more" in error.message


def test_both_names_for_tries_per_step_are_one_setting(data: Data) -> None:
    assert data.load("[loop_control]\nmax_attempts_per_step = 6\n").loop_control.retries == 5
    assert data.load("[loop_control]\nmax_retries_per_step = 0\n").loop_control.retries == 0
    both = "[loop_control]\nmax_retries_per_step = 3\nmax_attempts_per_step = "
    assert data.load(both + "4\n").loop_control.retries == 3
    assert "keep one of the two" in data.refused(both + "9\n").hint


toml_values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.dates(),
        st.times(),
        st.datetimes(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=12), inner, max_size=3)
    ),
    max_leaves=8,
)


def keys_of(table: object) -> st.SearchStrategy[dict[str, object]]:
    """Tables of the known keys at random places, with anything as value."""
    fields = sorted(Settings.model_fields)
    inner = sorted({k for t in ("host", "sandbox", "server", "gateway") for k in _fields(t)})
    names = st.sampled_from([*fields, *inner, "kimi-code", "oauth", "key", "model", "provider"])
    return st.dictionaries(
        names, st.one_of(toml_values, st.dictionaries(names, toml_values, max_size=4)), max_size=5
    )


def _fields(table: str) -> list[str]:
    annotation = Settings.model_fields[table].annotation
    assert annotation is not None
    return list(annotation.model_fields)


@given(st.one_of(keys_of(Settings), st.dictionaries(st.text(max_size=12), toml_values)))
@settings(max_examples=400, deadline=None)
def test_any_table_loads_or_is_refused_with_a_config_error(raw: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(raw, {}, path=Path("/nowhere/config.toml"))
    assert all(line.isprintable() for line in caught.value.message.split("\n"))


@given(keys_of(Settings))
@settings(max_examples=300, deadline=None)
def test_any_addition_to_a_working_config_loads_or_is_refused(raw: dict[str, object]) -> None:
    working = parse_toml(WORKING.encode(), Path("/nowhere/config.toml"))
    with contextlib.suppress(ConfigError):
        parse_settings({**working, **raw}, {}, path=Path("/nowhere/config.toml"))


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode())))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_toml_or_refused_with_a_config_error(content: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse_toml(content, Path("config.toml"))


@pytest.mark.parametrize("content", [b"a = " + b"[" * 5000, b"a = " + b"9" * 5000, b"a." * 3000])
def test_toml_made_to_break_its_parser_is_refused(data: Data, content: bytes) -> None:
    data.path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_settings(data.root, {})


def test_a_deeply_nested_table_is_refused(data: Data) -> None:
    raw: dict[str, object] = {}
    for _ in range(3000):
        raw = {"x": raw}
    with pytest.raises(ConfigError):
        parse_settings(raw, {}, path=data.path)
