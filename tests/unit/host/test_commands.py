import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.host.commands import Command, Name, parse, refusal
from runner.model import Role


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/stop", Command(Name.STOP)),
        ("  /status \n", Command(Name.STATUS)),
        ("/Stop", Command(Name.STOP)),
        ("/stop@kimibot", Command(Name.STOP)),
        ("/usage@Kimi_bot", Command(Name.USAGE)),
        ("@kimi /help", Command(Name.HELP)),
        ("@Kimi   /reset", Command(Name.RESET)),
        ("/model", Command(Name.MODEL)),
        ("/model k2", Command(Name.MODEL, argument="k2")),
        ('/model@bot "my model"', Command(Name.MODEL, argument="my model")),
        ("/model “my model”", Command(Name.MODEL, argument="my model")),
    ],
)
def test_a_text_that_is_nothing_but_a_command_is_one(text: str, expected: Command) -> None:
    assert parse(text, "@kimi", admin_group=False) == expected


@pytest.mark.parametrize(
    "text",
    [
        "/stop now please",
        "please /stop",
        "/stopp",
        "/stop@",
        "/ stop",
        "//stop",
        "/stop/reset",
        "/status birds",
        "/model k2 please",
        "/model k2\nand then",
        "/stop\n/reset",
        "@kimi/stop",
        "@kimi, /stop that",
        "@other /stop",
        "/yolo",
        "stop",
        "",
        "/",
        "/\u017ftatus",  # a long s is not an s
        "/stop \u200b",
        "/model " + "x" * 700,
    ],
)
def test_talk_stays_talk(text: str) -> None:
    assert parse(text, "@kimi", admin_group=False) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/status birds", Command(Name.STATUS, "birds")),
        ('/stop "my group"', Command(Name.STOP, "my group")),
        ("/model birds k2", Command(Name.MODEL, "birds", "k2")),
        ("/model k2", Command(Name.MODEL, argument="k2")),
        ("/stop now please", None),
        ("/help birds", None),
    ],
)
def test_an_admin_group_names_others(text: str, expected: Command | None) -> None:
    assert parse(text, "", admin_group=True) == expected


def test_a_trigger_that_looks_like_a_command_is_still_a_trigger() -> None:
    assert parse("/ai /stop", "/ai", admin_group=False) == Command(Name.STOP)
    assert parse("/ai stop", "/ai", admin_group=False) is None


@given(st.text(max_size=40), st.sampled_from(["", "@kimi", ".*", "/ai", "("]), st.booleans())
def test_no_text_breaks_the_reading(text: str, trigger: str, admin_group: bool) -> None:
    for whole in (text, f"/stop {text}", f"{trigger} /model {text}"):
        found = parse(whole, trigger, admin_group=admin_group)
        assert found is None or (admin_group or not found.target)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        (Name.HELP, Role.MEMBER),
        (Name.STATUS, Role.MEMBER),
        (Name.STOP, Role.MEMBER),
        (Name.RESET, Role.ADMIN),
        (Name.MODEL, Role.ADMIN),
        (Name.USAGE, Role.ADMIN),
    ],
)
def test_who_may(name: Name, needed: Role) -> None:
    for role in (Role.OWNER, Role.ADMIN, Role.MEMBER):
        assert (refusal(Command(name), role) == "") is role.covers(needed)
        allowed_elsewhere = refusal(Command(name, "birds"), role) == ""
        assert allowed_elsewhere is role.covers(Role.ADMIN)
