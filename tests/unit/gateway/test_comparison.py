"""Two models on the same prompts: who did better, in numbers that are never guessed."""

from dataclasses import replace
from typing import Any

import pytest

from runner.errors import ConfigError
from runner.gateway.comparison import (
    PROMPTS,
    Outcome,
    Prompt,
    Run,
    Side,
    StepResult,
    judge,
    read_prompts,
    report_of,
    succeeded,
)
from runner.gateway.verdict import read_validation
from runner.settings.tables import Targets

PROMPT = Prompt("sum", "add", ("def add",))
GOOD = StepResult("def add(): ...", "kimi", 100, 0.002, False, "k3", response_time=2.0)
LOST = replace(GOOD, content="", error="no route", reason="unreachable", cost=None, tokens_used=0)


def run(new: StepResult, old: StepResult) -> Run:
    return Run(PROMPT, Side(new), Side(old), "2026-11-01T00:00:00+00:00")


def better(**more: Any) -> StepResult:
    return replace(GOOD, **more)


@pytest.mark.parametrize(
    ("new", "old", "outcome"),
    [
        (GOOD, GOOD, Outcome.SAME),
        (GOOD, LOST, Outcome.BETTER),
        (LOST, GOOD, Outcome.WORSE),
        (LOST, LOST, Outcome.FAILED),
        (better(content="I cannot"), GOOD, Outcome.WORSE),
        (better(response_time=1.0), GOOD, Outcome.BETTER),
        (better(response_time=1.0, cost=0.001), GOOD, Outcome.BETTER),
        (better(response_time=1.0, cost=0.003), GOOD, Outcome.MIXED),
        (better(response_time=3.0, cost=None), GOOD, Outcome.WORSE),
        (better(response_time=2.001), GOOD, Outcome.SAME),
    ],
)
def test_success_decides_and_then_time_and_cost(
    new: StepResult, old: StepResult, outcome: Outcome
) -> None:
    assert judge(run(new, old)) is outcome


def test_an_answer_is_good_when_it_holds_what_it_should_and_nobody_refused_it() -> None:
    assert succeeded(PROMPT, Side(GOOD))
    assert succeeded(PROMPT, Side(GOOD, read_validation("VALID")))
    assert succeeded(PROMPT, Side(GOOD, read_validation("hard to say")))
    assert not succeeded(PROMPT, Side(GOOD, read_validation("INVALID: slow")))
    assert not succeeded(PROMPT, Side(better(content="def sub(): ...")))
    assert not succeeded(Prompt("any", "x"), Side(better(content=" \n")))
    assert not succeeded(PROMPT, Side(LOST))


def test_a_record_has_the_names_and_the_decimals_that_scripts_read() -> None:
    new = better(response_time=1.23456, cost=0.0000004)
    record = report_of("k3", "gpt", [run(new, GOOD)], Targets()).as_json("now")["tests"][0]
    assert list(record) == ["test", "kimi", "old", "comparison", "timestamp"]
    assert record["test"] == "sum"
    assert record["comparison"] == {"verdict": "better", "time_diff": -0.77, "cost_diff": -0.002}
    named = {"content", "provider", "tokens_used", "cost", "fallback_used"}
    assert named <= record["kimi"].keys()


def test_the_sums_are_those_of_the_successful_answers() -> None:
    runs = [
        run(better(response_time=1.0, cost=0.001, tokens_used=50), GOOD),
        run(better(content="no", tokens_used=50), GOOD),
    ]
    report = report_of("k3", "gpt", runs, Targets())
    assert report.change.cost_saving == pytest.approx(50.0)
    assert report.change.speed_change == pytest.approx(50.0)
    assert report.change.success_rate_change == pytest.approx(-50.0)
    assert report.change.tokens_efficiency == pytest.approx(0.5)
    document = report.as_json("now")
    assert document["kimi"]["success_rate"] == 0.5
    assert document["kimi"]["total_cost"] == pytest.approx(0.003)
    assert document["kimi"]["token_efficiency"] == 0.5


def test_missed_targets_of_the_new_side_are_warnings() -> None:
    strict = Targets(avg_response_time=1.0, cost_per_task=1.0)
    report = report_of("k3", "gpt", [run(GOOD, better(response_time=9.0))], strict)
    assert [(w.provider, w.metric) for w in report.warnings] == [("k3", "avg_response_time")]


def test_where_there_is_nothing_to_divide_by_there_is_no_number() -> None:
    for runs in ([], [run(LOST, LOST)]):
        report = report_of("k3", "gpt", runs, Targets())
        assert report.change.cost_saving is None
        assert report.change.speed_change is None
        assert report.change.tokens_efficiency is None
        assert report.as_json("now")["old"]["total_cost"] is None
    record = report.as_json("now")["tests"][0]["comparison"]
    assert record == {"verdict": "failed", "time_diff": None, "cost_diff": None}


def test_the_usual_prompts_refuse_the_faulty_code_that_they_ask_about() -> None:
    for prompt in PROMPTS:
        assert prompt.expects
        echoed = better(content=prompt.prompt)
        assert not succeeded(prompt, Side(echoed)), prompt.test
    assert [p.test for p in PROMPTS] == ["Simple function", "Bug fix", "Refactoring"]


def test_prompts_are_texts_or_objects() -> None:
    found = read_prompts(b'["one", {"prompt": "two", "test": "second", "expects": ["x"]}]')
    assert found == (Prompt("prompt 1", "one"), Prompt("second", "two", ("x",)))


@pytest.mark.parametrize(
    "document", [b"", b"{}", b"[]", b"[1]", b'[{"text": "x"}]', b"[{}]", b"\xff", b"[" * 5000]
)
def test_a_file_that_holds_no_prompts_is_refused_with_the_shape_to_write(document: bytes) -> None:
    with pytest.raises(ConfigError) as e:
        read_prompts(document)
    assert "prompt" in e.value.hint
