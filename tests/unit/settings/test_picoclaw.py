"""Configs of the picoclaw family become config.toml: what loads, what is kept, what is said."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ConfigError
from runner.settings.load import load_settings, parse_settings, parse_toml
from runner.settings.picoclaw import Imported, convert
from runner.settings.schema import Settings

LIST = {
    "agents": {
        "defaults": {
            "workspace": "~/.picoclaw/workspace",
            "model": {"primary": "kimi-code", "fallbacks": ["gpt4-backup", "deepseek"]},
            "max_tokens": 8192,
            "temperature": 0.7,
            "max_tool_iterations": 20,
        }
    },
    "model_list": [
        {
            "model_name": "kimi-code",
            "model": "kimi-code/kimi-coding",
            "api_key": "sk-kimi-1",
            "api_keys": ["sk-kimi-2"],
            "api_base": "https://api.kimi.com/coding/v1",
            "proxy": "http://localhost:7890",
            "rpm": 60,
            "request_timeout": 90,
            "thinking_level": "xhigh",
            "max_tokens_field": "max_completion_tokens",
            "extra_body": {"k": None, "n": 1},
            "custom_headers": {"X-A": "b"},
            "streaming": {"enabled": False},
            "connect_mode": "stdio",
        },
        {"model_name": "gpt4-backup", "model": "openai/gpt-4o", "api_key": "sk-openai"},
    ],
    "tools": {"web": {"duckduckgo": {"enabled": True, "max_results": 5}}},
}
LEGACY = {
    "agents": {"defaults": {"provider": "kimi_code", "model": "kimi-coding"}},
    "providers": {
        "kimi_code": {"api_key": "sk-kimi", "api_base": "https://api.kimi.com/coding/v1"},
        "groq": {"api_key": "sk-groq"},
        "openai": {"api_key": "", "api_base": ""},
    },
}


def imported(document: object) -> Imported:
    return convert(json.dumps(document).encode())


def settings(found: Imported, tmp_path: Path) -> Settings:
    for name, secret in found.secrets.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(secret)
    path = tmp_path / "config.toml"
    return parse_settings(parse_toml(found.text.encode(), path), {}, path=path)


def test_a_model_list_comes_along_with_all_its_fields(tmp_path: Path) -> None:
    s = settings(imported(LIST), tmp_path)
    kimi, gpt = s.model_list
    assert (kimi.model_name, kimi.model) == ("kimi-code", "kimi-code/kimi-coding")
    assert [k.reveal() for k in (kimi.api_key, *kimi.api_keys)] == ["sk-kimi-1", "sk-kimi-2"]
    assert (kimi.api_base, kimi.proxy) == (
        "https://api.kimi.com/coding/v1",
        "http://localhost:7890",
    )
    assert (kimi.rpm, kimi.request_timeout, kimi.thinking_level) == (60, 90.0, "max")
    assert (kimi.max_tokens_field, kimi.streaming) == ("max_completion_tokens", False)
    assert (kimi.extra_body, kimi.custom_headers) == ({"n": 1}, {"X-A": "b"})
    assert (kimi.max_tokens, kimi.temperature) == (8192, 0.7)
    assert (gpt.model, gpt.max_tokens, gpt.api_key.reveal()) == ("openai/gpt-4o", 8192, "sk-openai")
    assert s.loop_control.max_steps_per_turn == 20


def test_agents_can_use_the_default_model_at_once(tmp_path: Path) -> None:
    for document, alias in ((LIST, "kimi-code"), (LEGACY, "kimi-coding")):
        of_group = settings(imported(document), tmp_path).for_group("any")
        assert (of_group.alias, of_group.model.model) == (alias, "kimi-for-coding")
        assert of_group.provider.base_url == "https://api.kimi.com/coding/v1"
        assert of_group.provider.api_key.reveal().startswith("sk-kimi")


def test_the_older_layout_becomes_an_entry(tmp_path: Path) -> None:
    found = imported(LEGACY)
    (entry,) = settings(found, tmp_path).model_list
    assert (entry.model_name, entry.model) == ("kimi-coding", "kimi-code/kimi-coding")
    assert [n for n in found.notes if "providers.groq" in n]
    assert not [n for n in found.notes if "providers.openai" in n]


def test_a_login_becomes_a_login(tmp_path: Path) -> None:
    found = imported({"model_list": [{"model": "kimi-code/k3", "auth_method": "oauth"}]})
    of_group = settings(found, tmp_path).for_group("g")
    assert of_group.provider.oauth is not None
    assert found.secrets == {}
    assert [n for n in found.notes if "nanokimi login" in n]


def test_keys_are_not_in_the_text() -> None:
    found = imported(LIST)
    assert set(found.secrets.values()) == {"sk-kimi-1", "sk-kimi-2", "sk-openai"}
    for key in found.secrets.values():
        assert key not in found.text
        assert key not in repr(found)
        assert not [n for n in found.notes if key in n]


def test_the_same_key_is_kept_once() -> None:
    entries = [{"model": f"openai/{n}", "api_key": "sk-one"} for n in range(3)]
    assert len(imported({"model_list": entries}).secrets) == 1


def test_a_fallback_that_is_defined_nowhere_is_named_and_left_out(tmp_path: Path) -> None:
    found = imported(LIST)
    assert 'the fallback "deepseek" is defined nowhere and was left out' in found.notes
    assert settings(found, tmp_path).model_list[0].fallbacks == ("gpt4-backup",)


@pytest.mark.parametrize("part", ["connect_mode", "agents.defaults.workspace"])
def test_what_has_no_counterpart_is_said(part: str) -> None:
    assert [n for n in imported(LIST).notes if part in n]


@pytest.mark.parametrize(
    ("tools", "search"),
    [
        ({"enabled": True, "max_results": 7}, {"engine": "duckduckgo", "max_results": 7}),
        ({"enabled": True}, {"engine": "duckduckgo"}),
        ({"enabled": False, "max_results": 3}, {"enabled": False, "max_results": 3}),
        ({"enabled": True, "max_results": 5_000}, {"engine": "duckduckgo"}),
        ({"enabled": "yes"}, {}),
        ({}, {}),
    ],
)
def test_the_switch_for_web_search_becomes_that_of_the_tool(
    tools: dict[str, object], search: dict[str, object]
) -> None:
    made = imported({**LIST, "tools": {"web": {"duckduckgo": tools}}})
    assert (
        parse_toml(made.text.encode(), Path("c")).get("tools", {}).get("web_search", {}) == search
    )


def test_other_tools_and_engines_of_search_are_said_to_be_left_out() -> None:
    notes = imported({**LIST, "tools": {"cron": {}, "web": {"brave": {"enabled": True}}}}).notes
    assert [n for n in notes if "tools.cron" in n]
    assert [n for n in notes if "tools.web.brave" in n]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"\xff", "not JSON"),
        (b"{}", "names no model"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_config_is_refused(document: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        convert(document)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats(-1, 3) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*LIST["model_list"][0], "agents", "defaults", "providers", "kimi_code", "primary"]  # type: ignore[index]  # it is a list
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(json_values, json_values, json_values)
def test_odd_documents_are_converted_or_refused_never_a_crash(
    agents: object, listed: object, providers: object
) -> None:
    document = {"agents": agents, "model_list": [listed], "providers": providers}
    try:
        found = imported(document)
    except ConfigError:
        return
    parse_toml(found.text.encode(), Path("config.toml"))


def command(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("NANOKIMI_", "PICOCLAW_"))}
    return subprocess.run(
        [sys.executable, "-m", "runner", "--data", str(data), "import", "picoclaw", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environ,
    )


def test_the_command_writes_a_config_that_loads_and_private_keys(tmp_path: Path) -> None:
    source, data = tmp_path / "config.json", tmp_path / "data"
    source.write_text(json.dumps(LIST))
    done = command(data, str(source))
    assert done.returncode == 0, done.stderr
    assert load_settings(data, {}).model_list[0].api_key.reveal() == "sk-kimi-1"
    keys = list((data / "credentials").glob("*.key"))
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert "sk-" not in done.stdout + done.stderr

    before = (data / "config.toml").read_text()
    again = command(data, str(source))
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    assert (data / "config.toml").read_text() == before


def test_the_text_can_be_looked_at_first(tmp_path: Path) -> None:
    source = tmp_path / "config.json"
    source.write_text(json.dumps(LIST))
    done = command(tmp_path / "data", "--print", str(source))
    assert done.returncode == 0
    assert done.stdout == imported(LIST).text
    assert not (tmp_path / "data").exists()
