from __future__ import annotations

import pytest

from runner.errors import ConfigError
from runner.model import Limits
from runner.settings.schema import Settings

from .conftest import MODELS, Data

SECOND = MODELS.replace("[models.kimi-code]", "[models.fast]").replace("kimi-for-coding", "k3")


def test_a_group_that_the_config_does_not_name_gets_what_holds_everywhere(data: Data) -> None:
    g = data.load("[host]\ntrigger = '@bot'\n[sandbox]\ncpus = 2\n").for_group("new")
    assert (g.group, g.trigger, g.alias) == ("new", "@bot", "kimi-code")
    assert (g.engine, g.network, g.admin) == ((), "isolated", False)
    assert g.limits == Limits(memory=1 << 30, cpus=2.0, pids=256)
    assert g.provider_name == "managed:kimi-code"
    assert g.provider.base_url == "https://api.kimi.com/coding/v1"


def test_a_groups_own_keys_win_one_by_one(data: Data) -> None:
    s = data.load(
        "[agent]\nengine = ['other']\n"
        "[groups.'🦊 -100']\ntrigger = ''\nmodel = 'fast'\nengine = 'native'\nnetwork = 'open'\n"
        "admin = true\nlimits = { memory = '2g' }\n",
        models=MODELS + SECOND,
    )
    g = s.for_group("🦊 -100")
    assert (g.trigger, g.alias, g.model.model) == ("", "fast", "k3")
    assert (g.engine, g.network, g.admin) == ((), "open", True)
    assert g.limits == Limits(memory=2 << 30, cpus=1.0, pids=256)
    assert s.for_group("else").engine == ("other",)


def test_equal_settings_of_a_group_compare_equal(data: Data) -> None:
    """So that a reload can tell whether a sandbox must be replaced."""
    first, second = data.load(), data.load("[groups.b]\nadmin = true\n")
    assert first.for_group("a") == second.for_group("a")
    assert first.for_group("b") != second.for_group("b")


@pytest.mark.parametrize("group_id", ["", "x" * 257])
def test_a_group_id_has_1_to_256_characters(data: Data, group_id: str) -> None:
    with pytest.raises(ConfigError) as caught:
        data.load().for_group(group_id)
    assert "256" in caught.value.hint


def test_settings_that_were_never_checked_still_fail_with_a_reason() -> None:
    with pytest.raises(ConfigError, match="there is no"):
        Settings().for_group("a")
