"""What chat commands answer: a few short lines, as a chat shows them. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from runner.calls import NANO, UsageRow
from runner.errors import ENGINE_SILENT, ImageMissingError, LoginRequiredError
from runner.host.commands import DEFAULT, NEEDED, Name
from runner.model import Role
from runner.settings.problem import shorten
from runner.store.overview import Overview

MAX_LISTED = 30

_MEANINGS = {
    Name.HELP: "/help: this list",
    Name.STATUS: "/status: what the agent is doing",
    Name.STOP: "/stop: stop the work on what you asked",
    Name.RESET: "/reset: forget the conversation; files stay",
    Name.MODEL: f"/model NAME: take another model; /model {DEFAULT}: the configured one again",
    Name.USAGE: "/usage: tokens and cost, today and this month",
}

_HELD = {
    LoginRequiredError.code: "the operator has to log in to the model's provider",
    "quota_exceeded": "what the provider allows is used up",
    "membership": "the provider asks for a membership",
    ImageMissingError.code: "the operator has to build the agent's image",
    ENGINE_SILENT: "what agents run in does not answer now",
}


@dataclass(frozen=True, slots=True)
class ModelInUse:
    """``alias`` answers in the group; ``chosen`` there with ``/model``, ``asked`` if that is gone.

    ``offered`` are the aliases that may be chosen.
    """

    alias: str
    chosen: bool
    asked: str
    offered: Sequence[str]


def help_text(role: Role, trigger: str, *, admin_group: bool) -> str:
    """The commands that somebody of this role may give here."""
    lines = [_MEANINGS[name] for name in Name if role.covers(NEEDED[name])]
    if role.covers(Role.ADMIN):
        lines[lines.index(_MEANINGS[Name.STOP])] = "/stop: stop the running work"
    if admin_group and role.covers(Role.ADMIN):
        lines.append("From here also for other groups: /status ID, /stop ID, /reset ID, /usage ID,")
        lines.append("/model ID NAME")
    talk = f"write {trigger} in your message" if trigger else "just write"
    lines.append(f"To talk to the agent, {talk}.")
    return "\n".join(lines)


def status_text(
    found: Overview, *, held_for: str, model: ModelInUse, sandbox: str, now: float
) -> str:
    """What the group's agent does, what waits for it, and what it is made of."""
    lines = []
    if found.turn is None:
        lines.append("Idle.")
    else:
        doing = "Held" if held_for else "Working"
        names = ", ".join(dict.fromkeys(shorten(n, 40) for n in found.askers if n.strip()))
        asked = f" on what {shorten(names, 120)} asked" if names else ""
        lines.append(f"{doing} for {duration(now - found.turn.started_at)}{asked}.")
    if held_for:
        why = _HELD.get(held_for, "the model does not answer now")
        lines.append(f"Nothing is lost: {why}, and it goes on by itself after that.")
    if found.waiting:
        lines.append(f"Waiting: {_count(found.waiting, 'message')}.")
    lines.append(model_line(model))
    lines.append(f"Sandbox: {sandbox}.")
    if found.tasks:
        lines.append(f"Scheduled: {_count(found.tasks, 'task')}.")
    return "\n".join(lines)


def model_line(model: ModelInUse) -> str:
    """Which model answers, and why that one."""
    if model.asked and not model.chosen:
        return f"Model: {model.alias} ({shorten(model.asked)} was chosen here, and is gone)."
    return f"Model: {model.alias}{' (chosen here)' if model.chosen else ''}."


def models_text(model: ModelInUse) -> str:
    """Which model answers, and which could."""
    return f"{model_line(model)}\n{_offered(model)}"


def no_model_text(asked: str, model: ModelInUse) -> str:
    return f"There is no model {shorten(asked)}.\n{_offered(model)}"


def usage_text(today: UsageRow, month: UsageRow, now: float) -> str:
    """What the group has used; days and months are those of UTC."""
    name = time.strftime("%B", time.gmtime(now))
    return f"Today: {_usage(today)}.\n{name}: {_usage(month)}."


def duration(seconds: float) -> str:
    """``12 s``, ``3 min``, ``2 h 5 min``, ``3 d``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d"


def waiting_text(count: int) -> str:
    """A line about what comes next; empty when nothing waits."""
    if not count:
        return ""
    one = count == 1
    return f"\n{_count(count, 'message')} {'waits, and comes' if one else 'wait, and come'} next."


def _offered(model: ModelInUse) -> str:
    listed = ", ".join(model.offered[:MAX_LISTED])
    more = len(model.offered) - MAX_LISTED
    return f"There are: {listed}{f' and {more} more' if more > 0 else ''}."


def _usage(row: UsageRow) -> str:
    if not row.calls:
        return "nothing"
    tokens = row.tokens.total
    parts = [
        _count(row.calls, "call"),
        "tokens not reported" if tokens is None else f"{tokens:,} tokens",
    ]
    if row.tokens.output is not None:
        parts[-1] += f" ({row.tokens.output:,} written)"
    cost = row.known_cost
    parts.append("cost not known" if cost is None else f"${cost / NANO:,.4f}")
    if cost is not None and (unknown := row.unpriced + row.no_usage):
        parts[-1] += f" and {_count(unknown, 'call')} of unknown cost"
    return ", ".join(parts)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
