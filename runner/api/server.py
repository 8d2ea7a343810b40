"""A host with its API and its gateway on one port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from runner.api.app import create_app
from runner.api.serving import serving
from runner.api.token import api_token
from runner.channels.secret import webhook_secret
from runner.gateway.routes import gateway_app
from runner.host.app import open_host
from runner.host.credentials import Credentials
from runner.host.lock import host_lock
from runner.sandbox.backend import open_spawner
from runner.sandbox.spawner import Spawner
from runner.settings.layout import Layout
from runner.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Served:
    """A host that serves; ``died`` is set when it has to be restarted."""

    url: str
    died: asyncio.Event


@asynccontextmanager
async def serving_host(
    layout: Layout, settings: Settings, address: str, port: int
) -> AsyncIterator[Served]:
    """A host with its API inside the block. At the end it drains.

    Raises:
        ConflictError: another host serves this data directory.
        EngineError, TemporaryError, PermanentError: it cannot start; see :func:`open_host`.
    """

    with host_lock(layout.host_lock) as lock:
        credentials = Credentials(layout.credentials)

        async def spawner(install: str) -> Spawner:
            return await open_spawner(
                settings.sandbox.backend, layout, install, image=settings.sandbox.image
            )

        webhook_secret(layout)  # made now, for a bot that reads it before the first post
        try:
            async with open_host(layout, settings, spawner, credentials) as host:
                models = gateway_app(
                    lambda: host.models.gateway, lambda: host.settings.gateway.keys
                )
                app = by_path(models, create_app(host, api_token(layout)))
                async with serving(app, address, port) as url:
                    lock.announce(url)
                    try:
                        yield Served(url, host.died)
                    finally:
                        await host.drain()
        finally:
            await credentials.aclose()


def by_path(models: ASGIApp, api: ASGIApp) -> ASGIApp:
    """``/v1/…`` belongs to the model gateway with its own limits and error shapes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = models if str(scope.get("path", "")).startswith("/v1/") else api
        await chosen(scope, receive, send)

    return app
