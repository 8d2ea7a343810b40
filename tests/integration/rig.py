"""A whole host for tests: real store, real sandboxes, real HTTP; only the provider is the demo."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.api.app import create_app
from runner.api.client import Api, ServerEvent, group_path
from runner.api.server import by_path
from runner.api.serving import serving
from runner.demo.provider import DemoProvider
from runner.gateway.routes import gateway_app
from runner.host.app import Host, open_host
from runner.host.credentials import Credentials
from runner.sandbox.backend import open_spawner
from runner.sandbox.spawner import Spawner
from runner.settings.layout import Layout
from runner.settings.load import load_settings

TOKEN = "test-token"

CONFIG = """
default_model = "kimi-code"
default_thinking = true

[models.kimi-code]
provider = "demo"
model = "{model}"
max_context_size = 262144
capabilities = ["thinking"]

[providers.demo]
type = "kimi"
base_url = "{base_url}"
oauth = {{storage = "file", key = "oauth/kimi-code", host = "{oauth_host}"}}

[loop_control]
max_retries_per_step = 1

[host]
trigger = ""
grace = "5s"
{host}

[sandbox]
backend = "{backend}"
image = "{image}"
stop_grace = "2s"
start_timeout = "30s"
{sandbox}
{more}
"""


@dataclass
class Rig:
    """What a test talks to."""

    layout: Layout
    provider: DemoProvider
    host: Host
    api: Api
    url: str

    async def say(self, group: str, text: str, **more: Any) -> list[ServerEvent]:
        """Send a message; its events until its turn has ended."""
        async with asyncio.timeout(60):
            return [e async for e in self.api.send(group, {"text": text, **more})]

    async def ask(self, group: str, text: str, **more: Any) -> str:
        """Send a message; the answer. Fails when the turn did."""
        last = (await self.say(group, text, **more))[-1]
        assert last.kind == "turn.finished", last
        return str(last.data["text"])

    async def events(self, group: str) -> list[dict[str, Any]]:
        """Every event of the group that is on disk or in memory."""
        found: list[dict[str, Any]] = []
        last = self.host.events.mark()
        self.host.events.tell(group, "mark", {})
        async with asyncio.timeout(20):
            async for event in self.host.events.follow(group, 0):
                if event.id > last:
                    break
                found.append({"kind": event.kind, **event.data})
        return found

    async def until(self, group: str, kind: str) -> ServerEvent:
        """The next event of this kind in the group."""
        async with asyncio.timeout(60):
            async for event in self.host.events.follow(group, 0):
                if event.kind == kind:
                    return ServerEvent(event.kind, event.data)
        raise AssertionError(f"no {kind}")


def write_config(
    layout: Layout,
    provider: DemoProvider,
    *,
    backend: str = "process",
    image: str = "nanokimi-agent",
    model: str = "kimi-for-coding",
    host: str = "",
    sandbox: str = "",
    more: str = "",
    store_url: str = "",
) -> None:
    """``store_url``: that of a PostgreSQL database; empty is SQLite."""
    if store_url:
        more += f'\n[store]\nurl = "{store_url}"\n'
    layout.root.mkdir(parents=True, exist_ok=True)
    layout.config.write_text(
        CONFIG.format(
            base_url=provider.base_url,
            oauth_host=provider.oauth_host,
            backend=backend,
            image=image,
            model=model,
            host=host,
            sandbox=sandbox,
            more=more,
        )
    )


def log_in(layout: Layout, provider: DemoProvider, lifetime: float | None = None) -> None:
    layout.credentials.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = layout.credentials / "kimi-code.json"
    path.write_text(json.dumps(provider.issue_login(lifetime)))
    path.chmod(0o600)


@asynccontextmanager
async def running(layout: Layout, provider: DemoProvider) -> AsyncIterator[Rig]:
    """A host on a data directory that has its config and login."""
    settings = load_settings(layout, {})
    credentials = Credentials(layout.credentials)

    async def spawner(install: str) -> Spawner:
        return await open_spawner(
            settings.sandbox.backend, layout, install, image=settings.sandbox.image
        )

    async with (
        open_host(layout, settings, spawner, credentials) as host,
        serving(
            by_path(
                gateway_app(lambda: host.models.gateway, lambda: host.settings.gateway.keys),
                create_app(host, TOKEN),
            ),
            "127.0.0.1",
            0,
        ) as url,
    ):
        api = Api(url, TOKEN)
        try:
            yield Rig(layout, provider, host, api, url)
        finally:
            await host.drain()
            await api.aclose()
            await credentials.aclose()


@asynccontextmanager
async def rig(tmp_path: Path, **config: Any) -> AsyncIterator[Rig]:
    """A provider and a host, logged in."""
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider, **config)
        log_in(layout, provider)
        async with running(layout, provider) as made:
            yield made


__all__ = ["TOKEN", "Rig", "group_path", "log_in", "rig", "running", "write_config"]
