"""What every command needs: where the data is, the settings, the log."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar, cast

import structlog
import typer
import uvloop

from runner.cli.output import visible
from runner.settings.layout import Layout

if TYPE_CHECKING:
    from runner.settings.schema import Settings

_T = TypeVar("_T")
_REMEMBERED = 1000


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Context:
    """``data`` is absolute; ``debug`` shows tracebacks."""

    data: Path
    debug: bool = False

    @property
    def layout(self) -> Layout:
        return Layout(self.data)

    def settings(self) -> Settings:
        """Load ``config.toml``; what it warns of is logged. Raises: ConfigError."""
        from runner.settings.load import load_settings

        settings = load_settings(self.layout, os.environ)
        for warning in settings.warnings:
            structlog.get_logger().warning("settings.warning", text=warning)
        return settings


def context_of(ctx: typer.Context) -> Context:
    """The context that the global options made."""
    made = ctx.find_object(Context)
    assert made is not None
    return made


def run(work: Callable[[], Awaitable[_T]]) -> _T:
    """Run a coroutine function on a fresh event loop."""

    async def main() -> _T:
        return await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


class _Stderr:
    """The stderr of the moment: loggers are kept, and stderr may be another one by then."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Once:
    """Drops an event that is the same as an earlier one, key by key."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(
        self, _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        said = repr(sorted(event.items(), key=lambda item: item[0]))
        if said in self._said:
            raise structlog.DropEvent
        if len(self._said) < _REMEMBERED:
            self._said.add(said)
        return event


def start_logging(level: LogLevel, form: LogFormat, *, once: bool = False) -> None:
    """Events with keys, to stderr; colours only on a terminal.

    ``once``: what a short command has said already it does not say again.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        *([_Once()] if once else []),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.typing.Processor
    if form is LogFormat.JSON:
        shared.append(structlog.processors.format_exc_info)
        last = structlog.processors.JSONRenderer()
    else:
        shared.append(_written_out)
        last = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=_traceback
        )
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    # Libraries say what they must through the standard logger; a cut stream is not their news.
    logging.getLogger().setLevel(max(number, logging.WARNING))
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


def _written_out(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Names and errors of strangers stand in the log; they cannot steer who reads it."""
    return {k: visible(v) if isinstance(v, str) else v for k, v in event.items()}


def _traceback(file: TextIO, found: structlog.typing.ExcInfo) -> None:
    held = io.StringIO()
    structlog.dev.plain_traceback(held, found)
    file.write(visible(held.getvalue()))
