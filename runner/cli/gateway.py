"""``nanokimi gateway``: the model gateway alone, without groups and sandboxes."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Annotated

import structlog
import typer

from runner.api.server import serving
from runner.cli.context import Context, context_of, run
from runner.errors import ConfigError
from runner.gateway.routes import gateway_app
from runner.host.credentials import Credentials
from runner.host.models import Models
from runner.settings.problem import Wrong
from runner.settings.texts import address
from runner.store import Store

log = structlog.get_logger()


def gateway(
    ctx: typer.Context,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT; [server] listen without it.")
    ] = None,
) -> None:
    """Serve /v1/chat/completions and /v1/messages for any client. SIGTERM or Ctrl-C ends it."""
    context = context_of(ctx)
    run(lambda: _gateway(context, listen))


async def _gateway(context: Context, listen: str | None) -> None:
    settings = context.settings()
    if not settings.gateway.keys:
        raise ConfigError(
            "[gateway] keys is empty: nobody could call",
            hint='set keys = ["file:gateway-key"] or another secret in config.toml',
        )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    host, port = _address(listen) if listen else settings.server.address
    credentials = Credentials(context.layout.credentials)
    store = await Store.open(context.layout.database)
    try:
        models = Models(context.layout, settings, store, credentials)
        app = gateway_app(lambda: models.gateway, lambda: settings.gateway.keys)
        async with models.running(), serving(app, host, port) as url:
            log.info("gateway.serving", url=url)
            await stop.wait()
        log.info("gateway.stopped")
    finally:
        await credentials.aclose()
        await store.close()


def _address(listen: str) -> tuple[str, int]:
    try:
        return address(listen)
    except Wrong as e:
        raise ConfigError(f"--listen {e.text}", hint=e.fix) from None
