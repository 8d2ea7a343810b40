"""Settings of one group, changed in the text of the config."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import ConfigError
from runner.settings.edit import set_of_group, unset_of_group
from runner.settings.schema import Settings

TEXT = """# mine
default_model = "m"   # the best

[models.m]
provider = "p"
model = "m"

[providers.p]
base_url = "http://x.example/v1"
api_key = "k"

# --- groups ---
[groups."team@x"]
trigger = "@t"   # short
roles = { "tg:1" = "owner" }
"""
PATH = Path("/nowhere/data/config.toml")


def change(group: str, *pairs: str) -> tuple[str, Settings]:
    text = TEXT
    for pair in pairs:
        text, made = set_of_group(text, group, pair, {}, PATH)
    return text, made


@pytest.mark.parametrize(
    ("pair", "name", "value"),
    [
        ("trigger=@kimi", "trigger", "@kimi"),
        ("trigger=", "trigger", ""),
        ("trigger=42", "trigger", "42"),
        ("trigger=true", "trigger", "true"),
        ('trigger="a=b"', "trigger", "a=b"),
        ("admin=true", "admin", True),
        ("max_chars=4096", "max_chars", 4096),
        ("model=m", "model", "m"),
        ("network=open", "network", "open"),
        ('engine=["kimi", "acp"]', "engine", ("kimi", "acp")),
    ],
)
@pytest.mark.parametrize("group", ["team@x", "new \U0001f600"])
def test_a_value_is_what_its_key_takes(group: str, pair: str, name: str, value: Any) -> None:
    text, made = change(group, pair)
    assert getattr(made.groups[group], name) == value
    assert "# mine" in text
    assert "# the best" in text


def test_single_limits_roles_and_tools_are_set() -> None:
    text, made = change("team@x", "limits.memory=2g", "roles.tg:42=admin", "tools.web_fetch=false")
    group = made.groups["team@x"]
    assert group.limits.memory == 2 << 30
    assert group.roles == {"tg:1": "owner", "tg:42": "admin"}
    assert group.tools == {"web_fetch": False}
    assert group.trigger == "@t"
    assert "# short" in text


def test_a_key_that_is_taken_out_is_as_everywhere() -> None:
    text, made = unset_of_group(TEXT, "team@x", "trigger", {}, PATH)
    assert made.groups["team@x"].trigger is None
    text, made = unset_of_group(text, "team@x", "roles.tg:1", {}, PATH)
    assert made.groups["team@x"].roles == {}
    assert "roles" not in tomllib.loads(text)["groups"]["team@x"]
    assert unset_of_group(TEXT, "nobody", "limits.memory", {}, PATH)[0] == TEXT


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("triger=x", "trigger"),
        ("model=gone", "gone"),
        ("admin=maybe", "admin"),
        ("limits=2", "limits"),
        ("trigger.x=2", "trigger"),
        ("limits.=2", "limits"),
        ("trigger", "KEY=VALUE"),
        ("tools.nothing=true", "nothing"),
        ("limits.memory=lots", "memory"),
    ],
)
def test_what_would_make_the_config_invalid_is_refused(pair: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        change("team@x", pair)
    assert said in refused.value.message + refused.value.hint


@settings(deadline=None)
@given(st.text(min_size=1, max_size=30), st.text(max_size=30))
def test_no_id_or_value_breaks_out_of_its_place(group: str, value: str) -> None:
    try:
        _, made = change(group, f"trigger={value}")
    except ConfigError:
        return
    assert made.groups.keys() == {"team@x", group}
    assert made.groups[group].admin is False
    assert made.default_model == "m"
