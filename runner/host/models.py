"""The gateway as the host runs it: built of the settings, the logins and the ledger."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from runner.gateway.budgets import Spending, Window, start_of
from runner.gateway.caching.explicit import ExplicitCaching
from runner.gateway.reasoning_file import ReasoningFile
from runner.gateway.rests import Rests
from runner.gateway.routing import build_router
from runner.gateway.service import Gateway, Parts
from runner.gateway.state import SqliteState
from runner.gateway.targets import Credential
from runner.host.credentials import Credentials
from runner.settings.layout import Layout
from runner.settings.models import load_models
from runner.settings.schema import Settings
from runner.store import Store
from runner.store.books import Books
from runner.store.ledger import Ledger

PAGE = 10_000


class GatewayTokens:
    """The :class:`~runner.gateway.service.TokenGiver` of the product."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._last: dict[str, str] = {}

    async def token(self, credential: Credential, *, renew: bool) -> str:
        """Raises: LoginRequiredError, ConfigError, TemporaryError."""
        if credential.oauth is None:
            return credential.secret.reveal() if credential.secret else ""
        refused = self._last.get(credential.fingerprint) if renew else None
        token = await self._credentials.login_token(credential.oauth, rejected=refused)
        self._last[credential.fingerprint] = token
        return token


class Models:
    """A gateway with its books. :meth:`reload` takes up other settings."""

    def __init__(
        self, layout: Layout, settings: Settings, store: Store, credentials: Credentials
    ) -> None:
        self._layout = layout
        self._ledger = Ledger(store)
        self.books = Books(self._ledger)
        self._spending = Spending()
        self._memory = ReasoningFile(layout.reasoning)
        self._state = SqliteState(layout.gateway_state)
        self._rests = Rests(self._state)
        self._tokens = GatewayTokens(credentials)
        self.caching = ExplicitCaching(
            self._state,
            lambda credential: self._tokens.token(credential, renew=False),
            self._client,
            lock=layout.caches_lock,
        )
        self.gateway = Gateway(self._parts(settings))

    def reload(self, settings: Settings) -> None:
        """Calls from now on go by these settings. Raises: ConfigError."""
        self.gateway.parts = self._parts(settings)

    def _parts(self, settings: Settings) -> Parts:
        return Parts(
            settings=settings,
            router=build_router(settings, os.environ),
            models=load_models(self._layout.models),
            rests=self._rests,
            memory=self._memory,
            tokens=self._tokens,
            spending=self._spending,
            book=self.books.book,
            caching=self.caching,
        )

    def forget(self, group: str) -> None:
        """A group is gone: what was cached at providers for its conversations alone, goes too."""
        self.caching.forget(f"group:{group}")

    def _client(self, proxy: str) -> httpx.AsyncClient:
        return self.gateway.client(proxy)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Book calls inside the block; what this month has cost so far is counted first."""
        now = time.time()
        seq, since = 0, start_of(Window.MONTH, now)
        while True:
            calls, last = await self._ledger.booked_after(seq, since)
            self._spending.settle(calls, now)
            if last == seq:
                break
            seq = last
        writer = asyncio.create_task(
            self.books.run(lambda: self.gateway.parts.settings.gateway.keep_usage, time.time),
            name="write books",
        )
        try:
            parts = self.gateway.parts
            await self.caching.open(parts.router.targets.all, parts.settings.gateway.cache_hosts)
            yield
        finally:
            writer.cancel()
            await asyncio.wait({writer})
            await self.caching.close()
            await self.books.close()
            await self.gateway.aclose()
            await self._memory.close()
            self._state.close()
