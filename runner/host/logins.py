"""What turns need from the logins behind their groups: a current token, and a wait for one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from runner.errors import NanokimiError, TemporaryError
from runner.host.credentials import Credentials
from runner.host.opener import Opener
from runner.host.session import AgentSession
from runner.settings.tables import Provider

log = structlog.get_logger()

POLL = 0.5
# How often a held group looks whether its login, which is still the same, has become usable.
LOOK = 5.0
# A login that looks usable is tried again so often: the provider may have changed its mind.
RETRY = 60.0
RENEWED = "login_renewed"


class GroupLogins:
    """The :class:`~runner.host.run.Logins` of the product."""

    def __init__(self, credentials: Credentials, opener: Opener) -> None:
        self._credentials = credentials
        self._opener = opener

    def provider(self, group: str) -> str:
        """Names who answers the group's model calls."""
        return self._provider(group).base_url

    def fingerprint(self, group: str) -> str:
        """Names the credential that the group's model is called with now; never holds it."""
        return self._credentials.fingerprint(self._provider(group))

    async def ready(self, session: AgentSession) -> None:
        """Give a sandbox that calls its provider itself the token of now.

        Raises:
            LoginRequiredError, ConfigError: there is none.
            TemporaryError: it has expired and cannot be renewed now.
        """
        if self._is_open(session.sandbox.info.group):
            await self._opener.project(session)

    async def refused(self, group: str, than: str, error: NanokimiError) -> NanokimiError:
        """What it means that a turn, begun with the credential ``than``, failed with ``error``.

        Behind a relay a refused token has been renewed and tried once more already. A sandbox that
        calls its provider itself cannot do that: it is done here, and the turn is tried again.
        """
        provider = self._provider(group)
        if provider.oauth is None or not self._is_open(group):
            return error
        try:
            if self.fingerprint(group) == than:
                await self._credentials.renew(provider)
        except NanokimiError as e:
            return e
        return TemporaryError("the access token was refused and has been renewed", code=RENEWED)

    async def another(self, group: str, than: str) -> None:
        """Return when it is worth trying again with what is there instead of ``than``.

        That is another credential, one that was unusable and is not any more (a store that can be
        written again), or the same one after a while.
        """
        began = looked = time.monotonic()
        usable = await self._usable(group)
        while self.fingerprint(group) == than:
            await asyncio.sleep(POLL)
            now = time.monotonic()
            if now - looked >= LOOK:
                looked, before = now, usable
                usable = await self._usable(group)
                if usable and (not before or now - began >= RETRY):
                    return

    async def keep_projected(self, sessions: Callable[[], dict[str, AgentSession]]) -> None:
        """Bring each new access token to the open sandboxes, until cancelled."""
        while True:
            await self._credentials.rotated.wait()
            self._credentials.rotated.clear()
            for group, session in sessions().items():
                try:
                    await self.ready(session)
                except NanokimiError as e:  # of this sandbox: the others get theirs
                    log.warning("tokens.not_projected", group=group, code=e.code, error=e.message)

    async def _usable(self, group: str) -> bool:
        try:
            await self._credentials.check(self._provider(group))
        except NanokimiError:
            return False
        return True

    def _is_open(self, group: str) -> bool:
        return self._opener.of_group(group).network == "open"

    def _provider(self, group: str) -> Provider:
        return self._opener.of_group(group).provider
