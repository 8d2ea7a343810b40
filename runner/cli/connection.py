"""A running host to talk to: the one that serves this data directory, or one of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runner.api.client import Api
from runner.api.server import serving_host
from runner.api.token import api_token
from runner.cli.context import Context
from runner.host.lock import serving


@asynccontextmanager
async def connect(context: Context) -> AsyncIterator[Api]:
    """The host that serves this data directory; when none does, one for as long as the block."""
    other = serving(context.layout.host_lock)
    if other is not None and other.url:
        api = Api(other.url, api_token(context.layout))
        try:
            yield api
        finally:
            await api.aclose()
        return
    async with serving_host(context.layout, context.settings(), "127.0.0.1", 0) as url:
        api = Api(url, api_token(context.layout))
        try:
            yield api
        finally:
            await api.aclose()
