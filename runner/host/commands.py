"""Chat commands: which texts are one, and who may give it. Pure.

Strict on purpose: only a text that is nothing but a command is one, so that talk which happens to
begin with a slash reaches the agent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from runner.model import Role

MAX_CHARS = 600
DEFAULT = "default"
"""``/model default`` goes back to the configured one."""


class Name(StrEnum):
    """What there is, in the order in which ``/help`` shows it."""

    HELP = "help"
    STATUS = "status"
    STOP = "stop"
    RESET = "reset"
    MODEL = "model"
    USAGE = "usage"


NEEDED: dict[Name, Role] = {
    Name.HELP: Role.MEMBER,
    Name.STATUS: Role.MEMBER,
    Name.STOP: Role.MEMBER,  # of one's own; any other's takes an admin
    Name.RESET: Role.ADMIN,
    Name.MODEL: Role.ADMIN,
    Name.USAGE: Role.ADMIN,
}
ELSEWHERE = Role.ADMIN
"""What it takes in an admin group to name another group."""


@dataclass(frozen=True, slots=True)
class Command:
    """``target`` is the group that is meant, empty for the one in which it was said."""

    name: Name
    target: str = ""
    argument: str = ""


_COMMAND = re.compile(
    rf"/({'|'.join(Name)})"
    r"(?:@[\w.-]{1,64})?"  # platforms append the bot's name
    r"(?:[^\S\n]+([^\n]+))?",
    re.IGNORECASE | re.ASCII,
)
_WORD = re.compile(r'"([^"]+)"|“([^”]+)”|(\S+)')


def parse(text: str, trigger: str, *, admin_group: bool) -> Command | None:
    """The command that this text is; ``None`` when it is talk.

    ``@kimi /stop``, ``/stop``, ``/Stop@kimibot`` are one; ``/stop now please`` is not. In an admin
    group most take the id of another group, in quotes where it has blanks.
    """
    text = text.strip()
    if len(text) > MAX_CHARS:
        return None
    if trigger and (called := re.match(rf"{re.escape(trigger)}\s+", text, re.IGNORECASE)):
        text = text[called.end() :]
    found = _COMMAND.fullmatch(text)
    if found is None:
        return None
    name = Name(found[1].lower())
    words = _words(found[2] or "")
    match name, words:
        case _, []:
            return Command(name)
        case Name.MODEL, [alias]:
            return Command(name, argument=alias)
        case Name.MODEL, [group, alias] if admin_group:
            return Command(name, group, alias)
        case ((Name.STATUS | Name.STOP | Name.RESET | Name.USAGE), [group]) if admin_group:
            return Command(name, group)
        case _:
            return None


def refusal(command: Command, role: Role) -> str:
    """Why somebody of this role may not do that; empty when they may."""
    needed = NEEDED[command.name]
    if command.target and not role.covers(ELSEWHERE):
        needed = ELSEWHERE
    if role.covers(needed):
        return ""
    return f"/{command.name} is for the {needed}s of this group, and you are {_a(role)}."


def _words(text: str) -> list[str]:
    return [next(part for part in found.groups() if part) for found in _WORD.finditer(text)]


def _a(role: Role) -> str:
    return f"an {role}" if role in (Role.OWNER, Role.ADMIN) else f"a {role}"
