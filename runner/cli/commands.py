"""The table of commands: each one's module is loaded when it is called, not before.

Most of a command's time would else go into libraries that only other commands use.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """``attribute`` of ``runner.cli.<module>`` is the command's function, or a group of commands.

    ``help`` is its line in ``nanokimi --help``, the first one of its own help.
    """

    module: str
    attribute: str
    help: str


COMMANDS = {
    "init": Entry("init", "init", "Write data/config.toml with comments. Never overwrites one."),
    "login": Entry(
        "auth",
        "login",
        "Log in to a provider: shows a code and a URL, and waits until you have approved it.",
    ),
    "logout": Entry("auth", "logout", "Forget the login of a provider on this machine."),
    "auth": Entry("auth", "app", "Logins."),
    "build": Entry(
        "build",
        "build",
        "Build the agent image. Without a reachable registry it makes its own base.",
    ),
    "doctor": Entry(
        "doctor", "doctor", "Check everything that has to work, and say the fix for what does not."
    ),
    "chat": Entry(
        "chat", "chat", "Talk to a group's agent: the answer streams to stdout, notes go to stderr."
    ),
    "serve": Entry(
        "serve",
        "serve",
        "Serve the HTTP API. SIGTERM or Ctrl-C drains; a second one stops at once.",
    ),
    "demo": Entry(
        "demo",
        "demo",
        "Show the main job without an account: login, two groups, tools, memory, isolation.",
    ),
    "groups": Entry("groups", "app", "Groups and their agents."),
    "tasks": Entry("tasks", "app", "What agents do at set times."),
    "logs": Entry(
        "logs", "logs", "Show the log of a group's agent (its stderr, over all its sandboxes)."
    ),
    "usage": Entry("usage", "usage", "Calls, tokens and cost of the last days."),
    "monitor": Entry("monitor", "app", "How providers do: quality and costs of recorded calls."),
    "gateway": Entry(
        "gateway",
        "gateway",
        "Serve /v1/chat/completions and /v1/messages for any client. SIGTERM or Ctrl-C ends it.",
    ),
    "providers": Entry(
        "providers", "app", "Real calls to the configured models: they cost what they cost."
    ),
    "import": Entry("import_", "app", "Bring along what older systems have."),
}


class LazyGroup(TyperGroup):
    """``nanokimi`` itself.

    Versions of typer differ in the classes of contexts and commands, so they are ``Any`` here.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # suggested for typos

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command itself, loaded; ``None`` for a name that there is not."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        found = getattr(import_module(f"runner.cli.{entry.module}"), entry.attribute)
        one = typer.Typer(add_completion=False, rich_markup_mode=None)
        one.callback()(lambda: None)  # else typer would make a program of a single command
        if isinstance(found, typer.Typer):
            one.add_typer(found, name=cmd_name)
        else:
            one.command(cmd_name)(found)
        made: Any = typer.main.get_command(one)
        return made.get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list in ``--help``, from the table alone."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])
