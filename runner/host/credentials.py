"""Who we are at each provider: a login that the host alone refreshes, or an API key."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from pathlib import Path

import httpx

from runner.errors import ConfigError, LoginRequiredError, NanokimiError, PermanentError
from runner.oauth.headers import client_headers
from runner.oauth.refresher import TokenSource
from runner.oauth.status import LoginState
from runner.oauth.store import TokenStore
from runner.settings.projection import project_credentials
from runner.settings.schema import OAuth, Provider

# An API key has no end that we know of; a sandbox's file needs some time in the future.
LOGIN_DEADLINE = 20.0
REMEMBERED = 64
KEY_LIFETIME = 10 * 365 * 86400.0


class Credentials:
    """Hands out real tokens.

    Args:
        directory: the host's ``data/credentials``.

    Attributes:
        rotated: set whenever a login has another access token than before.
    """

    def __init__(self, directory: Path) -> None:
        self.rotated = asyncio.Event()
        self._directory = directory
        self._handed_out: deque[str] = deque(maxlen=REMEMBERED)
        self._keepers: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._client = httpx.AsyncClient(timeout=LOGIN_DEADLINE, follow_redirects=False)
        self._sources: dict[tuple[str, str], TokenSource] = {}

    async def aclose(self) -> None:
        """Let a renewal that is under way end: cut short it could lose the login."""
        for keeper in self._keepers.values():
            keeper.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers.values())
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
                on_rotated=lambda _: self.rotated.set(),
            )
        return self._sources[key]

    async def token(self, provider: Provider) -> str:
        """The bearer token of now.

        Raises:
            LoginRequiredError, ConfigError: there is none.
            TemporaryError: it has expired and cannot be renewed now.
        """
        if provider.oauth is not None:
            return await self.login_token(provider.oauth)
        key = provider.api_key.reveal()
        if not key:
            raise ConfigError(
                "the provider has neither a login nor an API key",
                hint="set oauth or api_key in its table of config.toml",
            )
        return self._remember(key)

    async def login_token(
        self, oauth: OAuth, *, force: bool = False, rejected: str | None = None
    ) -> str:
        """The access token of a login; see :meth:`TokenSource.access_token`.

        Raises:
            LoginRequiredError: there is none, or it cannot be used until the operator acts.
            TemporaryError: it has expired and cannot be renewed now.
        """
        try:
            token = await self.login(oauth).access_token(force=force, rejected=rejected)
        except ConfigError:
            raise
        except PermanentError as e:
            # A broken file or a full disk is like a lost login: messages wait for the operator.
            raise LoginRequiredError(e.message, hint=e.hint) from None
        return self._remember(token)

    async def projected(self, provider: Provider) -> dict[str, str]:
        """The credential files of a sandbox that calls the provider itself.

        Raises:
            LoginRequiredError: there is no usable login.
            ConfigError: the API key cannot be had.
        """
        token = await self.token(provider)
        expires_at = time.time() + KEY_LIFETIME
        if provider.oauth is not None:
            self._keep_fresh(provider.oauth)
            expires_at = self.login(provider.oauth).status().expires_at or time.time()
        return project_credentials(provider, token, expires_at)

    async def check(self, provider: Provider) -> None:
        """Look, without calling anybody, whether there is a login or key.

        Raises:
            LoginRequiredError, ConfigError: there is none.
            PermanentError: it is broken, or it is due and could not be written.
        """
        if provider.oauth is None:
            provider.api_key.reveal()
            return
        state = self.login(provider.oauth).status().state
        if state in (LoginState.LOST, LoginState.ABSENT):
            raise LoginRequiredError(f"the login is {state}", hint="run `nanokimi login`")
        if state is LoginState.EXPIRING:  # a pair that cannot be written is not asked for
            store = TokenStore(self._directory, provider.oauth.key)
            await asyncio.to_thread(store.check_writable)

    async def renew(self, provider: Provider) -> None:
        """Get another access token, because the provider has refused the one of now.

        Raises:
            LoginRequiredError: it has no login, or the login is lost.
            TemporaryError: the OAuth server does not answer.
        """
        if provider.oauth is not None:
            await self.login_token(provider.oauth, force=True)

    def fingerprint(self, provider: Provider) -> str:
        """Names the credential of now without giving it away: it changes when that does."""
        try:
            if provider.oauth is None:
                secret = provider.api_key.reveal()
            else:
                tokens = TokenStore(self._directory, provider.oauth.key).load()
                secret = tokens.fingerprint if tokens is not None else "absent"
        except NanokimiError as e:
            secret = e.message
        return hashlib.sha256(secret.encode()).hexdigest()[:16]

    def secrets(self) -> tuple[str, ...]:
        """The tokens that were handed out lately, for redaction."""
        return tuple(self._handed_out)

    def _keep_fresh(self, oauth: OAuth) -> None:
        """Somebody only reads the projected token: renew it without being asked."""
        key = (oauth.key, oauth.host)
        if key not in self._keepers:
            self._keepers[key] = asyncio.create_task(
                self.login(oauth).keep_fresh(), name=f"keep {oauth.key} fresh"
            )

    def _remember(self, token: str) -> str:
        if token not in self._handed_out:
            self._handed_out.append(token)
        return token
