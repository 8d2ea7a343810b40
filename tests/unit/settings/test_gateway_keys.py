import pytest

from runner.settings.tables import Budget

from .conftest import Data


def test_unnamed_keys_are_called_by_where_they_come_from(data: Data) -> None:
    keys = data.load(
        '[gateway]\nkeys = ["abc", "env:K", { name = "ci", key = "x" }]\n'
    ).gateway.keys
    assert [k.name for k in keys] == ["key-1", "env:K", "ci"]
    assert [k.models for k in keys] == [(), (), ()]


def test_a_key_may_have_models_and_a_budget(data: Data) -> None:
    one = '{ name = "ci", key = "x", models = ["k"], budget = { day = 5, month_tokens = 9 } }'
    (key,) = data.load(f"[gateway]\nkeys = [{one}]\n").gateway.keys
    assert key.models == ("k",)
    assert key.budget == Budget(day=5.0, month_tokens=9)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('[{ name = "a", key = "x" }, { name = "a", key = "y" }]', 'two keys called "a"'),
        ('["env:K", "env:K"]', 'two keys called "env:K"'),
        ('[""]', '"key-1", which is empty'),
        ("[5]", "must be text or a table"),
        ('[{ key = "x", model = ["m"] }]', "nearest is gateway.keys[0].models"),
        ('[{ key = "x", budget = { day = -1 } }]', "must be at least 0"),
    ],
)
def test_a_wrong_key_is_refused_with_its_reason(data: Data, keys: str, said: str) -> None:
    assert said in data.refused(f"[gateway]\nkeys = {keys}\n").message


def test_usage_is_kept_for_a_month_at_least(data: Data) -> None:
    error = data.refused('[gateway]\nkeep_usage = "7d"\n')
    assert "keep_usage" in error.message


def test_budgets_stand_for_all_and_for_one_group(data: Data) -> None:
    text = '[gateway.budgets]\ngroup = { day = 1.0 }\ngroups = { "a@b" = { month_tokens = 7 } }\n'
    budgets = data.load(text).gateway.budgets
    assert budgets.group == Budget(day=1.0)
    assert budgets.groups == {"a@b": Budget(month_tokens=7)}
