"""``nanokimi serve``: the orchestrator with its API, until it is told to end."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import structlog
import typer

from runner.cli.context import Context, context_of, run
from runner.errors import NanokimiError, PermanentError

if TYPE_CHECKING:
    from runner.settings.schema import Settings

log = structlog.get_logger()


def serve(ctx: typer.Context) -> None:
    """Serve the HTTP API. SIGTERM or Ctrl-C drains; a second one stops at once."""
    context = context_of(ctx)
    run(lambda: _serve(context))


async def _serve(context: Context) -> None:
    from runner.api.server import serving_host

    settings = context.settings()
    stop = asyncio.Event()

    def told() -> None:
        if stop.is_set():
            log.warning("host.stopping_at_once")
            os._exit(1)  # the next host ends the sandboxes and goes on with their turns
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    async with serving_host(context.layout, settings, *settings.server.address) as served:
        await _check_logins(context, settings)
        log.info("host.serving", url=served.url, docs=f"{served.url}/docs", data=str(context.data))
        await _either(stop, served.died)
        log.info("host.stopping")
    if served.died.is_set():
        raise PermanentError("a part of the host has died", hint="restart it; the log says why")
    log.info("host.stopped")


async def _check_logins(context: Context, settings: Settings) -> None:
    """Messages are kept for a login that is not there: better said now than at the first one."""
    from runner.host.credentials import Credentials

    used = [settings.for_group(group) for group in ("-", *settings.groups)]
    credentials = Credentials(context.layout.credentials)
    try:
        for name, provider in {of.provider_name: of.provider for of in used}.items():
            try:
                await credentials.check(provider)
            except NanokimiError as e:
                log.warning("host.no_login", provider=name, error=e.message, fix=e.hint)
    finally:
        await credentials.aclose()


async def _either(*flags: asyncio.Event) -> None:
    waits = [asyncio.create_task(flag.wait()) for flag in flags]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
