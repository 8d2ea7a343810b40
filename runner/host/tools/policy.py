"""Who may use which tool, and by what name a call is known again. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from runner.host.tools.tool import AnyTool
from runner.model import Message, Role
from runner.settings import tables
from runner.settings.group import GroupSettings
from runner.settings.schema import Settings

MAX_KEY = 200

# As they stand in ASCII JSON: NUL, and halves of a pair (whole pairs are looked at first).
_PAIR = re.compile(r"\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
_UNSTORABLE = re.compile(r"\\u0000|\\ud[89a-f][0-9a-f]{2}")

_SETTING = re.compile(r",? or (?:lower|raise) \[[^\]]+\] \w+")


def asking(messages: Iterable[Message]) -> Message | None:
    """The message with the least rights of those that a turn answers; nobody lends another theirs.

    These are the ones that woke the agent, and those that joined: to a question, anybody's next
    word is an answer.
    """
    order = list(Role)
    asked = (m for m in messages if m.wakes or m.steered)
    return max(asked, key=lambda m: order.index(m.role), default=None)


def role_of(messages: Iterable[Message]) -> Role:
    """The role that a turn has."""
    least = asking(messages)
    return least.role if least is not None else Role.MEMBER


def table_of(tool: AnyTool, settings: Settings) -> tables.Tool:
    """The settings of the tool."""
    found = getattr(settings.tools, tool.table)
    assert isinstance(found, tables.Tool)
    return found


def refusal(tool: AnyTool, settings: Settings, of_group: GroupSettings, role: Role) -> str:
    """Why this turn may not use the tool; empty when it may."""
    if tool.table not in of_group.tools or (tool.admin and not of_group.admin):
        return f"{tool.name} is switched off in this group"
    needed = table_of(tool, settings).role
    if not role.covers(needed):
        return f"{tool.name} needs the role {needed}, and somebody who asked is {role} here"
    return ""


def sent_key(key: object) -> str | None:
    """The key that an agent gave its call, if it is one."""
    if isinstance(key, str) and 0 < len(key) <= MAX_KEY and key.isprintable():
        return f"agent:{key}"
    return None


def content_of(name: str, arguments: Mapping[str, Any]) -> str:
    """Names a call of an agent that gave no key: equal calls have equal names."""
    said = json.dumps([name, arguments], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def content_key(content: str, nth: int) -> str:
    """The key of the ``nth`` call (from 1) in its attempt that says just this."""
    return f"content:{content}:{nth}"


def unstorable(arguments: Mapping[str, Any]) -> bool:
    """Is there a NUL or half a character anywhere in it? No database takes those."""
    return _UNSTORABLE.search(_PAIR.sub("", json.dumps(arguments))) is not None


def without_settings(hint: str) -> str:
    """A hint without the part that only an operator can follow: nobody in a chat has settings."""
    return _SETTING.sub("", hint)
