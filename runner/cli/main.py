"""``nanokimi``: global options anywhere, one command, errors as two lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from runner import __version__
from runner.cli.commands import LazyGroup
from runner.cli.context import Context, LogFormat, LogLevel, start_logging
from runner.cli.output import show_error
from runner.errors import ConfigError, NanokimiError

app = typer.Typer(
    cls=LazyGroup,
    name="nanokimi",
    help="Gives every chat group its own AI agent in its own container.",
    epilog="Start with: nanokimi init, nanokimi login, nanokimi build, nanokimi chat",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_GLOBAL = ("--data", "--log-level", "--log-format")
_TAKES_TEXT = ("-m", "--message")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nanokimi {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    ctx: typer.Context,
    data: Annotated[Path, typer.Option(envvar="NANOKIMI_DATA", help="The data directory.")] = Path(
        "data"
    ),
    log_level: Annotated[
        LogLevel, typer.Option(envvar="NANOKIMI_LOG_LEVEL", help="What is logged to stderr.")
    ] = LogLevel.WARNING,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="NANOKIMI_LOG_FORMAT", help="How it is logged.")
    ] = LogFormat.CONSOLE,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version
    if log_level is LogLevel.WARNING and os.environ.get("DEBUG", "").lower() in ("1", "true"):
        log_level = LogLevel.DEBUG
    elif log_level is LogLevel.WARNING and ctx.invoked_subcommand in ("serve", "gateway"):
        log_level = LogLevel.INFO
    elif log_level is LogLevel.WARNING and ctx.invoked_subcommand in ("chat", "demo"):
        log_level = LogLevel.ERROR  # they say themselves what concerns their reader
    if data.exists() and not data.is_dir():
        raise ConfigError(f"--data {data} is a file", hint="name a directory")
    stays = ctx.invoked_subcommand in ("serve", "gateway", "chat", "demo")
    start_logging(log_level, log_format, once=not stays)
    ctx.obj = Context(data.absolute(), debug=log_level is LogLevel.DEBUG)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code (0, 1, 2, 3, 4 or 130; see the docs)."""
    given = global_options_first(sys.argv[1:] if arguments is None else list(arguments))
    debug = "debug" in given[: given.index("--log-level") + 2] if "--log-level" in given else False
    try:
        code = app(args=given, standalone_mode=False)
    except NanokimiError as e:
        if debug:
            raise
        show_error(e)
        code = e.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except typer.Exit as e:
        code = e.exit_code
    except BrokenPipeError:  # whoever read it has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        code = 1
    except OSError as e:
        if debug:
            raise
        what = f"{e.filename}: {e.strerror}" if e.filename else str(e)
        hint = "check its owner and mode, or choose another directory with --data"
        show_error(NanokimiError(what, hint=hint))
        code = 1
    except Exception as e:
        shown = _usage_error(e)
        if shown is None:
            if debug:
                raise
            what = f"an internal error: {type(e).__name__}: {e}"
            show_error(NanokimiError(what, hint="--log-level debug shows where; please report it"))
            shown = 1
        code = shown
    sys.exit(code if isinstance(code, int) else 0)


def global_options_first(given: list[str]) -> list[str]:
    """Global options may stand anywhere: ``nanokimi chat --data X`` is ``nanokimi --data X chat``.

    The text of a message and what follows ``--`` are left alone.
    """
    front: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(given):
        word = given[at]
        if word == "--":
            rest += given[at:]
            break
        if word in _TAKES_TEXT:
            rest += given[at : at + 2]
            at += 2
        elif word in _GLOBAL:
            front += given[at : at + 2]
            at += 2
        elif word.startswith(tuple(f"{name}=" for name in _GLOBAL)):
            front += word.split("=", 1)
            at += 1
        else:
            rest.append(word)
            at += 1
    return front + rest


def _usage_error(e: Exception) -> int | None:
    """Show a mistake in the command line; ``None`` when it is something else."""
    message = getattr(e, "format_message", None)
    if message is None:
        return None
    if type(e).__name__ == "NoArgsIsHelpError":
        typer.echo(message())
        return 2
    context = getattr(e, "ctx", None)
    command = context.command_path if context is not None else "nanokimi"
    told = message().replace("Value error, ", "")  # some versions of typer check with pydantic
    show_error(NanokimiError(told, hint=f"see `{command} --help`"))
    return 2
