"""The facts about models: found by name, dated, and corrected by the operator's own file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from runner.agent.request import FAMILIES
from runner.demo.catalog import KIMI_CODE, OPEN_PLATFORM
from runner.errors import ConfigError
from runner.settings.models import ModelFacts, load_models, shipped


def facts(model: str) -> ModelFacts:
    found = shipped().find(model)
    assert found is not None, model
    return found


@pytest.mark.parametrize(
    ("asked", "id_"),
    [
        ("kimi-k3", "kimi-k3"),
        ("moonshotai/Kimi-K3", "kimi-k3"),
        ("kimi-k2.7-code-preview", "kimi-k2.7-code"),
        ("kimi-k2.6:free", "kimi-k2.6"),
        ("k3", "k3"),
        ("k3-fast", "k3"),
        ("k3-256k", "k3-256k"),
    ],
)
def test_the_longest_name_that_an_id_begins_with_is_its_model(asked: str, id_: str) -> None:
    assert facts(asked).id == id_


@pytest.mark.parametrize("asked", ["kimi-k30", "k3000", "kimi", "gpt-5", "", "-", "kimi-k2.5"])
def test_a_name_that_only_looks_alike_has_no_facts(asked: str) -> None:
    assert shipped().find(asked) is None


def test_each_model_of_the_open_platform_has_a_dated_price_and_a_cheaper_cache() -> None:
    for name in shipped().known:
        model = facts(name)
        if model.service == "open-platform":
            assert model.price is not None
            assert model.price.cached < model.price.input < model.price.output
            assert date(2026, 1, 1) < model.price.since <= shipped().as_of
        else:
            assert model.price is None, "a subscription has no price per token"


@pytest.mark.parametrize(
    ("asked", "sentence", "successor"),
    [
        ("kimi-latest", "was retired on 2026-01-28", "kimi-k2.6"),
        ("moonshot-v1-128k", "was retired on 2026-08-31", "kimi-k2.6"),
        ("kimi-coding", "was renamed", "kimi-for-coding"),
    ],
)
def test_a_name_that_is_gone_names_its_successor(asked: str, sentence: str, successor: str) -> None:
    gone = shipped().retired(asked)
    assert gone is not None
    assert (gone.sentence, gone.successor) == (sentence, successor)
    assert shipped().find(successor) is not None
    assert shipped().retired(successor) is None


def test_the_demo_provider_s_models_are_known_with_their_context() -> None:
    for service, models in (("kimi-code", KIMI_CODE), ("open-platform", OPEN_PLATFORM)):
        for model in models.values():
            if model.id != "demo-tiny":
                assert (facts(model.id).service, facts(model.id).context) == (
                    service,
                    model.context,
                )


def test_the_agent_knows_the_same_models_and_whether_they_need_their_reasoning() -> None:
    """The agent starts too fast to read the data file, so it keeps a short list of its own."""
    for family in FAMILIES:
        known = facts(family.prefix).family
        assert known is not None
        assert known.needs_reasoning == family.demands_reasoning


def test_an_operator_corrects_a_price_and_adds_a_model(tmp_path: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text(
        '[models."kimi-k3".price]\ninput = 2.5\nsince = 2026-12-01\n'
        '[models."deepseek-chat"]\ncontext = 65536\n'
        "price = {input = 0.2, cached = 0.02, output = 0.4, since = 2026-12-01}\n"
        '[models."kimi-k2.5"]\nfamily = "kimi-k2.6"\n'
    )
    models = load_models(own)
    k3, other, old = (models.find(m) for m in ("kimi-k3", "deepseek/deepseek-chat", "kimi-k2.5"))
    assert k3 is not None
    assert k3.price is not None
    assert (k3.price.input, k3.price.output, k3.context) == (2.5, 15.0, 1_048_576)
    assert other is not None
    assert other.family is None
    assert old is not None
    assert old.family == facts("kimi-k2.6").family
    assert models.retired("kimi-k2.5") is None, "the operator still has it"


def test_without_a_file_of_the_operator_the_shipped_facts_hold(tmp_path: Path) -> None:
    assert load_models(tmp_path / "models.toml").known == shipped().known


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("not toml", "cannot be read"),
        ("[models.x]\ncontext = 'big'\n", "models.x.context"),
        ("[models.x]\nsize = 1\n", "models.x.size"),
        ("[models.x]\nfamily = 'nobody'\n", '"nobody"'),
        ("[models.x.price]\ninput = -1.0\n", "models.x.price.input"),
    ],
)
def test_a_mistake_in_the_operator_s_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    own = tmp_path / "models.toml"
    own.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_models(own)
    assert str(own) in caught.value.message
    assert named in caught.value.message
