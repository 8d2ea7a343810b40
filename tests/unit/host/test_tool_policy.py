"""Who may use a host tool, and how calls are told apart."""

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from runner.host.tools import policy
from runner.host.tools.tool import Arguments, Context, Tool, schema_of
from runner.model import Message, Role
from runner.settings.load import parse_settings
from runner.settings.schema import Settings


class Nothing(Arguments):
    pass


class Register(Tool[Nothing]):
    name = "register_group"
    description = "x"
    arguments = Nothing
    table = "register_group"
    admin = True

    async def call(self, context: Context, arguments: Nothing) -> str:
        raise NotImplementedError


def settings(**more: Any) -> Settings:
    raw = {
        "default_model": "m",
        "models": {"m": {"provider": "p", "model": "m"}},
        "providers": {"p": {"type": "kimi", "base_url": "http://x/v1", "api_key": "k"}},
        **more,
    }
    return parse_settings(raw, {}, path=Path("/nowhere/data/config.toml"))


def said(role: Role, *, wakes: bool = True, steered: bool = False) -> Message:
    return Message(id=role, group="g", seq=0, text="x", role=role, wakes=wakes, steered=steered)


def test_a_turn_has_the_least_of_the_rights_of_those_who_woke_it() -> None:
    assert policy.role_of([said(Role.OWNER), said(Role.MEMBER)]) is Role.MEMBER
    assert policy.role_of([said(Role.OWNER), said(Role.MEMBER, wakes=False)]) is Role.OWNER
    answer = said(Role.MEMBER, wakes=False, steered=True)
    assert policy.role_of([said(Role.OWNER), answer]) is Role.MEMBER
    assert policy.role_of([]) is Role.MEMBER


@pytest.mark.parametrize(
    ("group", "role", "why"),
    [
        ({"admin": True}, Role.ADMIN, ""),
        ({"admin": False}, Role.OWNER, "switched off"),
        ({"admin": True}, Role.MEMBER, "needs the role admin"),
        ({"admin": True, "tools": {"register_group": False}}, Role.OWNER, "switched off"),
    ],
)
def test_a_tool_is_refused_with_its_reason(group: dict[str, Any], role: Role, why: str) -> None:
    of = settings(groups={"g": group})
    refused = policy.refusal(Register(), of, of.for_group("g"), role)
    assert why in refused
    assert bool(refused) == bool(why)


def test_equal_calls_without_a_key_are_told_apart_by_their_number() -> None:
    one = policy.content_of("send_message", {"text": "a", "group": "b"})
    assert one == policy.content_of("send_message", {"group": "b", "text": "a"})
    assert one != policy.content_of("send_message", {"text": "a"})
    assert policy.content_key(one, 1) != policy.content_key(one, 2)


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb", 7, None, "\ud800"])
def test_what_is_not_a_key_is_none(key: object) -> None:
    assert policy.sent_key(key) is None


def test_an_agent_cannot_name_the_key_of_a_call_by_content() -> None:
    assert policy.sent_key("content:x:1") != "content:x:1"


@given(st.text(st.characters()))
def test_just_what_no_database_takes_is_unstorable(text: str) -> None:
    bad = any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text)
    # Two halves side by side are one character once they have been through JSON.
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert policy.unstorable({"a": [{"b": text}]}) == ("\0" in text or (bad and "\ufffd" in whole))


class Inner(BaseModel):
    at: int = 1


class Rich(Arguments):
    title: str = Field(description="what it is called")
    when: Literal["a", "b"] = "a"
    limit: int | None = None
    inner: Inner = Inner()


def test_a_schema_is_plain() -> None:
    schema = schema_of(Rich)
    assert list(schema["properties"]) == ["title", "when", "limit", "inner"]
    assert schema["properties"]["title"] == {"description": "what it is called", "type": "string"}
    assert schema["properties"]["limit"] == {"type": "integer"}
    assert schema["properties"]["inner"]["properties"] == {"at": {"default": 1, "type": "integer"}}
    assert schema["required"] == ["title"]
    assert not {"$defs", "title"} & schema.keys()


@pytest.mark.parametrize(
    ("hint", "left"),
    [
        ("run less, or lower [tools.schedule_task] min_interval", "run less"),
        ("cancel one, or raise [tools.schedule_task] max_tasks", "cancel one"),
        ("give both, or neither", "give both, or neither"),
        ("", ""),
    ],
)
def test_a_model_is_not_told_of_settings_that_nobody_in_a_chat_has(hint: str, left: str) -> None:
    assert policy.without_settings(hint) == left
