"""``nanokimi gateway``: the model gateway alone, without groups and sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import structlog
import typer

from runner.api.call_metrics import DIRECTORY, CallMetrics, share_counts
from runner.api.serving import listen as listen_at
from runner.api.serving import reserve, serving_on, url_of
from runner.cli.context import Context, context_of, run
from runner.cli.workers import MAX_WORKERS, Workers, say_ready
from runner.errors import ConfigError, PermanentError
from runner.gateway.routes import gateway_app
from runner.host.credentials import Credentials
from runner.host.models import Models
from runner.settings.problem import Wrong
from runner.settings.schema import Settings
from runner.settings.texts import address
from runner.store import Store, place_of

log = structlog.get_logger()


def gateway(
    ctx: typer.Context,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT; [server] listen without it.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=MAX_WORKERS, help="Processes that share the work.")
    ] = 1,
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve /v1/chat/completions and /v1/messages for any client. SIGTERM or Ctrl-C ends it."""
    context = context_of(ctx)
    if worker is None:
        run(lambda: _gateway(context, listen, workers, _global_options(ctx)))
    else:
        share_counts(worker)
        structlog.contextvars.bind_contextvars(worker=worker)
        run(lambda: _serve(context, _settings(context), listen, shared=True))


async def _gateway(
    context: Context, listen: str | None, workers: int, options: tuple[str, ...]
) -> None:
    settings = _settings(context)
    if workers == 1:
        await _serve(context, settings, listen, shared=False)
        return
    with contextlib.closing(reserve(*_address(listen, settings))) as held:
        await _supervise(context, held, workers, options)


async def _serve(context: Context, settings: Settings, listen: str | None, *, shared: bool) -> None:
    """Serve until a signal; ``shared``: as one of several workers."""
    host, port = _address(listen, settings)
    stop = _stop_at_signals(lambda: os._exit(1))
    credentials = Credentials(context.layout.credentials)
    store = await Store.open(place_of(context.layout, settings.store))
    try:
        models = Models(context.layout, settings, store, credentials)
        calls = CallMetrics(lambda: models.gateway.parts.router)
        models.observe(calls.count)
        app = gateway_app(lambda: models.gateway, lambda: settings.gateway.keys)
        app.add_route("/metrics", calls.endpoint)
        async with models.running(follow=shared):
            with contextlib.closing(listen_at(host, port, shared=shared)) as listener:
                async with serving_on(app, listener) as url:
                    if shared:
                        say_ready(orphaned=stop.set)
                    else:
                        log.info("gateway.serving", url=url)
                    await stop.wait()
        log.info("gateway.stopped")
    finally:
        await credentials.aclose()
        await store.close()


async def _supervise(
    context: Context, held: socket.socket, count: int, options: tuple[str, ...]
) -> None:
    url = url_of(held)
    place = url.removeprefix("http://")

    def command(number: int) -> tuple[str, ...]:
        more = ("gateway", "--listen", place, "--worker", str(number))
        return (sys.executable, "-m", "runner", *options, *more)

    with _counts(context.layout.run / f"metrics-{place}") as directory:
        workers = Workers(command, count, {**os.environ, DIRECTORY: str(directory)})
        stop = _stop_at_signals(workers.kill)
        await workers.run(stop, lambda: log.info("gateway.serving", url=url, workers=count))
    log.info("gateway.stopped")


@contextlib.contextmanager
def _counts(path: Path) -> Iterator[Path]:
    """An empty directory; whoever holds the address may clear away what a killed one left.

    Raises:
        PermanentError: it cannot be made.
    """
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.mkdir(mode=0o700)
    except OSError as e:
        raise PermanentError(
            f"{path} cannot be made: {e.strerror}", hint="make the data directory writable"
        ) from None
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _stop_at_signals(at_once: Callable[[], None]) -> asyncio.Event:
    """Set at SIGTERM and Ctrl-C; a second one is ``at_once``."""
    stop = asyncio.Event()

    def told() -> None:
        if stop.is_set():
            at_once()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    return stop


def _settings(context: Context) -> Settings:
    settings = context.settings()
    if not settings.gateway.keys:
        raise ConfigError(
            "[gateway] keys is empty: nobody could call",
            hint='set keys = ["file:gateway-key"] or another secret in config.toml',
        )
    return settings


def _global_options(ctx: typer.Context) -> tuple[str, ...]:
    """What stood before the command, for a process that shall run with the same."""
    given = ctx.find_root().params
    data = str(context_of(ctx).data)
    level, form = str(given["log_level"]), str(given["log_format"])
    return ("--data", data, "--log-level", level, "--log-format", form)


def _address(listen: str | None, settings: Settings) -> tuple[str, int]:
    if listen is None:
        return settings.server.address
    try:
        return address(listen)
    except Wrong as e:
        raise ConfigError(f"--listen {e.text}", hint=e.fix) from None
