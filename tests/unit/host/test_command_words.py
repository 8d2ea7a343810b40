from runner.calls import NANO, Tokens, UsageRow
from runner.host.command_words import (
    ModelInUse,
    duration,
    help_text,
    no_model_text,
    status_text,
    usage_text,
    waiting_text,
)
from runner.model import Group, Role, Turn, TurnState
from runner.store.overview import Overview

MODEL = ModelInUse("k", False, "", ["k", "k2"])
GROUP = Group("g", "g-1")


def test_a_status_says_what_runs_for_whom_and_what_waits() -> None:
    turn = Turn("t", "g", TurnState.RUNNING, 1, started_at=100.0)
    found = Overview(GROUP, turn, ("Ada", "Eve", "Ada"), 2, 1)
    text = status_text(found, held_for="", model=MODEL, sandbox="busy", now=112.9)
    assert text.splitlines() == [
        "Working for 12 s on what Ada, Eve asked.",
        "Waiting: 2 messages.",
        "Model: k.",
        "Sandbox: busy.",
        "Scheduled: 1 task.",
    ]


def test_an_idle_status_is_short() -> None:
    found = Overview(GROUP, None, (), 0, 0)
    text = status_text(found, held_for="", model=MODEL, sandbox="none", now=0.0)
    assert text == "Idle.\nModel: k.\nSandbox: none."


def test_a_senders_name_cannot_write_lines_of_its_own() -> None:
    turn = Turn("t", "g", TurnState.RUNNING, 1)
    found = Overview(GROUP, turn, ("Ada\nModel: \x1b[31mevil" + "x" * 500,), 0, 0)
    text = status_text(found, held_for="login_required", model=MODEL, sandbox="busy", now=1.0)
    assert len(text.splitlines()) == 4
    assert "\x1b" not in text
    assert len(text) < 250


def test_a_chosen_model_that_is_gone_is_said() -> None:
    gone = ModelInUse("k", False, "old", ["k"])
    text = status_text(
        Overview(GROUP, None, (), 0, 0), held_for="", model=gone, sandbox="none", now=0.0
    )
    assert "Model: k (old was chosen here, and is gone)." in text


def test_an_unknown_model_is_answered_with_those_that_there_are() -> None:
    assert no_model_text("x\ny", MODEL) == "There is no model x?y.\nThere are: k, k2."


def test_usage_says_what_is_not_known() -> None:
    today = UsageRow({}, calls=2, tokens=Tokens(1000, 200, None, 34), cost=NANO // 8, priced=2)
    month = UsageRow({}, calls=3, tokens=Tokens(9), cost=NANO, priced=1, unpriced=2)
    assert usage_text(today, month, 1_790_000_000.0) == (
        "Today: 2 calls, 1,234 tokens (34 written), $0.1250.\n"
        "September: 3 calls, 9 tokens, $1.0000 and 2 calls of unknown cost."
    )
    free = UsageRow({}, calls=1, unpriced=1)
    assert usage_text(UsageRow({}), free, 0.0) == (
        "Today: nothing.\nJanuary: 1 call, tokens not reported, cost not known."
    )


def test_help_shows_what_one_may() -> None:
    member = help_text(Role.MEMBER, "@kimi", admin_group=True)
    assert "/stop: stop the work on what you asked" in member
    assert "/reset" not in member
    assert "write @kimi" in member
    admin = help_text(Role.ADMIN, "", admin_group=True)
    assert "/stop: stop the running work" in admin
    assert "/status ID" in admin
    assert "just write" in admin


def test_times_are_short() -> None:
    assert [duration(s) for s in (-1, 0, 59.9, 60, 7500, 200_000)] == [
        "0 s",
        "0 s",
        "59 s",
        "1 min",
        "2 h 5 min",
        "2 d",
    ]


def test_what_waits_is_counted() -> None:
    assert waiting_text(0) == ""
    assert waiting_text(1) == "\n1 message waits, and comes next."
    assert waiting_text(2) == "\n2 messages wait, and come next."
