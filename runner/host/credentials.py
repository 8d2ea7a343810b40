"""Who we are at each provider: a login that the host alone refreshes, or an API key."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from runner.errors import ConfigError, LoginRequiredError
from runner.gateway.upstream import Upstream
from runner.oauth.headers import client_headers
from runner.oauth.refresher import TokenSource
from runner.oauth.store import TokenStore
from runner.settings.projection import project_credentials
from runner.settings.schema import OAuth, Provider

# An API key has no end that we know of; a sandbox's file needs some time in the future.
LOGIN_DEADLINE = 20.0
KEY_LIFETIME = 10 * 365 * 86400.0


class Credentials:
    """Hands out real tokens. ``directory`` is the host's ``data/credentials``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._client = httpx.AsyncClient(timeout=LOGIN_DEADLINE, follow_redirects=False)
        self._sources: dict[tuple[str, str], TokenSource] = {}

    async def aclose(self) -> None:
        """Let a renewal that is under way end: cut short it could lose the login."""
        for source in self._sources.values():
            await source.close()
        await self._client.aclose()

    def login(self, oauth: OAuth) -> TokenSource:
        """The one token source of this login."""
        key = (oauth.key, oauth.host)
        if key not in self._sources:
            self._sources[key] = TokenSource(
                TokenStore(self._directory, oauth.key),
                host=oauth.host,
                client=self._client,
                headers=client_headers(self._directory),
            )
        return self._sources[key]

    def upstream(self, provider: Provider) -> Upstream:
        """How the host calls this provider."""
        return Upstream(provider.base_url, self._token(provider), provider.custom_headers)

    async def projected(self, provider: Provider) -> dict[str, str]:
        """The credential files of a sandbox that calls the provider itself.

        Raises:
            LoginRequiredError: there is no usable login.
            ConfigError: the API key cannot be had.
        """
        token = await self._token(provider)(None)
        expires_at = time.time() + KEY_LIFETIME
        if provider.oauth is not None:
            expires_at = self.login(provider.oauth).status().expires_at or time.time()
        return project_credentials(provider, token, expires_at)

    async def check(self, provider: Provider) -> None:
        """Look, without calling anybody, whether there is a login or key.

        Raises:
            LoginRequiredError, ConfigError: there is none.
        """
        if provider.oauth is None:
            provider.api_key.reveal()
        elif (state := self.login(provider.oauth).status().state) not in ("ok", "expiring"):
            raise LoginRequiredError(f"the login is {state}", hint="run `nanokimi login`")

    def _token(self, provider: Provider) -> Callable[[str | None], Awaitable[str]]:
        oauth = provider.oauth
        if oauth is not None:

            async def from_login(rejected: str | None) -> str:
                return await self.login(oauth).access_token(rejected=rejected)

            return from_login

        async def from_key(rejected: str | None) -> str:
            key = provider.api_key.reveal()
            if rejected is not None and key == rejected:
                raise LoginRequiredError(
                    "the provider rejects the API key",
                    hint="put a valid api_key into config.toml",
                )
            if not key:
                raise ConfigError(
                    "the provider has neither a login nor an API key",
                    hint="set oauth or api_key in its table of config.toml",
                )
            return key

        return from_key
