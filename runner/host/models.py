"""The gateway as the host runs it: built of the settings, the logins and the ledger."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import structlog

from runner.calls import Call
from runner.errors import NanokimiError
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

log = structlog.get_logger()

FOLLOW_EVERY = 1.0
"""Seconds between looks at what other workers have booked."""


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
        self._booked = 0
        self._observers: list[Callable[[Call], None]] = []
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
            book=self._book,
            caching=self.caching,
        )

    def observe(self, observer: Callable[[Call], None]) -> None:
        """Show it each call as it is booked; it must be quick, and not raise."""
        self._observers.append(observer)

    def _book(self, call: Call) -> None:
        self.books.book(call)
        for observer in self._observers:
            observer(call)

    def forget(self, group: str) -> None:
        """A group is gone: what was cached at providers for its conversations alone, goes too."""
        self.caching.forget(f"group:{group}")

    def _client(self, proxy: str) -> httpx.AsyncClient:
        return self.gateway.client(proxy)

    @asynccontextmanager
    async def running(self, *, follow: bool = False) -> AsyncIterator[None]:
        """Book calls inside the block; what this month has cost so far is counted first.

        ``follow``: others write to the same ledger, and budgets count their calls too, within
        about two seconds.
        """
        await self._catch_up()
        tasks = {
            asyncio.create_task(
                self.books.run(lambda: self.gateway.parts.settings.gateway.keep_usage, time.time),
                name="write books",
            )
        }
        if follow:
            tasks.add(asyncio.create_task(self._follow(), name="follow the ledger"))
        try:
            parts = self.gateway.parts
            await self.caching.open(parts.router.targets.all, parts.settings.gateway.cache_hosts)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self.caching.close()
            await self.books.close()
            await self.gateway.aclose()
            await self._memory.close()
            self._state.close()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_EVERY)
            try:
                self._spending.mark()
                await self.books.flush()
                await self._catch_up()
            except NanokimiError as e:
                # What is marked stays counted, and the next round reads on from the same place.
                log.warning("ledger.not_followed", error=e.message)

    async def _catch_up(self) -> None:
        """Count what is new in the ledger. Raises: TemporaryError."""
        now = time.time()
        since, last = start_of(Window.MONTH, now), self._booked
        found: list[Call] = []
        while True:
            calls, seq = await self._ledger.booked_after(last, since)
            found += calls
            if seq == last:
                break
            last = seq
        self._spending.settle(found, now)
        self._booked = last
