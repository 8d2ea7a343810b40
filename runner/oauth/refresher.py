"""The one refresher: hands out access tokens and renews them, once, whoever asks.

Refresh tokens rotate, so a lost or doubly spent one is a lost login. The rules, in this order:
one renewal at a time in the process (a shared task) and between processes (a file lock); the disk
is read again under the lock; the store must be writable before the refresh token is spent; the
new pair is durable before anybody gets it; a definitive refusal looks at the disk once more before
the login counts as lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx
import structlog

from runner.errors import LoginRequiredError, NanokimiError, PermanentError, TemporaryError
from runner.oauth.lock import process_lock
from runner.oauth.refresh import GrantRefusedError, ProviderSilentError, RefreshClient
from runner.oauth.status import LoginStatus, judge
from runner.oauth.store import LOCK_DEADLINE, RefreshRecord, TokenStore
from runner.oauth.tokens import TokenSet, is_usable, needs_refresh, refresh_due_at

# How long a caller whose token still works waits for a renewal before it goes on with the old one.
PATIENCE = 3.0
# After a failed renewal, callers whose token still works leave the provider alone for so long.
REST = 10.0
MIN_NAP = 0.5
MAX_NAP = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Unsaved:
    """A new pair that is not on disk yet, and the fingerprint of the one it replaces."""

    tokens: TokenSet
    replaces: str


class TokenSource:
    """Access tokens of one login.

    Args:
        store: where the login lies.
        host: base URL of the OAuth server.
        headers: see :func:`runner.oauth.headers.client_headers`.
        on_rotated: called with each new pair, once it is durable, also when another process or
            ``nanokimi login`` made it. It must not block.
        clock: Unix seconds.
        lock_deadline: seconds to wait for another process that is renewing.

    Raises:
        ConfigError: the host is not a safe URL.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        host: str,
        client: httpx.AsyncClient,
        headers: Mapping[str, str],
        on_rotated: Callable[[TokenSet], None] = lambda tokens: None,
        clock: Callable[[], float] = time.time,
        lock_deadline: float = LOCK_DEADLINE,
    ) -> None:
        self._store = store
        self._client = RefreshClient(host, client, headers, clock)
        self._on_rotated = on_rotated
        self._clock = clock
        self._lock_deadline = lock_deadline
        self._known = ""
        self._lost_said = "nothing"
        self._unsaved: _Unsaved | None = None
        self._renewal: asyncio.Task[TokenSet] | None = None
        self._stumbled = asyncio.Event()
        self._rest_until = 0.0
        self._told_to_wait_until = 0.0

    async def access_token(self, *, force: bool = False, rejected: str | None = None) -> str:
        """A token to call the provider with now.

        Args:
            force: renew even if the token looks fine; callers at the same time share one renewal.
            rejected: the token that was just answered with 401: renewed unless it already was.

        Raises:
            LoginRequiredError: no login, or it is lost.
            TemporaryError: expired and the OAuth server does not answer, or another process holds
                the lock; ``retry_after`` says when to come back.
            PermanentError: the token file is broken, or cannot be written.
        """
        tokens = self._load()
        current = tokens.access_token.get_secret_value()
        must = force or rejected == current
        if not must and not self._is_due(tokens):
            return current
        usable = not must and self._unsaved is None and is_usable(tokens, self._clock())
        try:
            self._check_hope(tokens)
            renewed = await self._join_renewal(tokens, force=must, usable=usable)
        except NanokimiError:
            if usable:
                return current
            raise
        return (renewed or tokens).access_token.get_secret_value()

    def status(self) -> LoginStatus:
        """How the login stands, from disk: also right in a process that does not renew.

        Raises:
            PermanentError: the token file is there but cannot be used.
        """
        tokens = self._read()
        record = self._store.record(tokens) if tokens else RefreshRecord()
        return judge(tokens, record, self._clock())

    async def keep_fresh(self) -> None:
        """Renew ahead of time until cancelled, for those who only read the projected token.

        Also notices a new token file within a minute. Failures are logged and tried again, less
        and less often.
        """
        failures = 0
        while True:
            try:
                await self.access_token()
                nap = refresh_due_at(self._load()) - self._clock()
                failures = 0
            except NanokimiError as e:
                failures += 1
                nap = MIN_NAP * 2 ** min(failures, 10)
                log.warning("oauth.not_fresh", code=e.code, why=e.message)
            await asyncio.sleep(min(max(nap, MIN_NAP), MAX_NAP))

    async def close(self) -> None:
        """Wait for a renewal that is under way: cut short it could lose the login."""
        if self._renewal is not None:
            with contextlib.suppress(NanokimiError):
                await self._renewal

    def _read(self) -> TokenSet | None:
        """The newest login: on disk, or the pair that could not be put there yet."""
        disk = self._store.load()
        if self._unsaved and (disk is None or disk.fingerprint != self._unsaved.replaces):
            self._unsaved = None  # a person has logged in or out since
        return self._unsaved.tokens if self._unsaved else disk

    def _load(self) -> TokenSet:
        tokens = self._read()
        if tokens is None:
            raise LoginRequiredError(
                f"there is no login at {self._store.path}", hint="run `nanokimi login`"
            )
        if self._unsaved is None:
            self._observe(tokens)
        return tokens

    def _observe(self, tokens: TokenSet) -> None:
        """Tell the observer of a pair that it has not seen; the first one is no news."""
        known, self._known = self._known, tokens.access_token.get_secret_value()
        if known and known != self._known:
            self._rest_until = self._told_to_wait_until = 0.0
            try:
                self._on_rotated(tokens)
            except Exception:  # an observer's bug must not cost the login
                log.exception("oauth.observer_failed")

    def _is_due(self, tokens: TokenSet) -> bool:
        if self._unsaved is not None:
            return True
        now = self._clock()
        resting = time.monotonic() < self._rest_until and is_usable(tokens, now)
        return needs_refresh(tokens, now) and not resting

    def _check_hope(self, tokens: TokenSet) -> None:
        """Refuse at once what the provider has told us not to ask."""
        record = self._store.record(tokens)
        if record.lost:
            raise self._lost(record.last_failure)
        if (wait := self._told_to_wait_until - time.monotonic()) > 0:
            raise TemporaryError(
                "the provider asked for a pause before the login is renewed",
                hint="it is tried again after that",
                code=ProviderSilentError.code,
                retry_after=wait,
            )

    async def _join_renewal(
        self, tokens: TokenSet, *, force: bool, usable: bool
    ) -> TokenSet | None:
        """The renewed pair; ``None`` when a caller with a usable token need not wait longer."""
        if self._renewal is None or self._renewal.done():
            self._stumbled.clear()
            self._renewal = asyncio.create_task(
                self._renew(tokens, force=force), name="renew the login"
            )
            self._renewal.add_done_callback(_retrieved)
        # Waited for, never awaited: a caller who is cancelled must not cancel the renewal, whose
        # refresh token may be spent already.
        renewal = self._renewal
        if not usable:
            await asyncio.wait((renewal,))
            return renewal.result()
        stumbled = asyncio.create_task(self._stumbled.wait(), name="first failure of a renewal")
        try:
            await asyncio.wait(
                (renewal, stumbled), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stumbled.cancel()
        return renewal.result() if renewal.done() else None

    async def _renew(self, seen: TokenSet, *, force: bool) -> TokenSet:
        try:
            async with process_lock(self._store.lock_path, self._lock_deadline):
                tokens = await self._renew_locked(seen, force=force)
        except NanokimiError as e:
            now = time.monotonic()
            self._rest_until = now + REST
            if isinstance(e, ProviderSilentError):
                self._told_to_wait_until = now + (e.retry_after or 0.0)
            raise
        self._observe(tokens)
        return tokens

    async def _renew_locked(self, seen: TokenSet, *, force: bool) -> TokenSet:
        await asyncio.to_thread(self._store.recover)
        tokens = await self._disk()
        if self._unsaved is not None:
            if self._unsaved.replaces == tokens.fingerprint:
                return await self._persist(self._unsaved)
            self._unsaved = None
        changed = tokens.access_token != seen.access_token
        if changed and is_usable(tokens, self._clock()):
            return tokens  # another process was faster
        if not force and not needs_refresh(tokens, self._clock()):
            return tokens
        if not tokens.refresh_token.get_secret_value():
            raise self._lost("it has no refresh token")
        record = self._store.record(tokens)
        if record.lost:  # another process has asked before us
            raise self._lost(record.last_failure)
        await asyncio.to_thread(self._store.check_writable)
        try:
            fresh = await self._client.refresh(tokens, self._stumble)
        except GrantRefusedError as refusal:
            return await self._after_refusal(tokens, refusal)
        except NanokimiError as e:
            await self._note_failure(tokens, e.message)
            raise
        return await self._persist(_Unsaved(fresh, replaces=tokens.fingerprint))

    async def _after_refusal(self, tokens: TokenSet, refusal: GrantRefusedError) -> TokenSet:
        """Somebody who does not know our lock may have rotated: then the disk has a newer pair."""
        now = await self._disk()
        if now.refresh_token != tokens.refresh_token:
            if is_usable(now, self._clock()):
                return now
            raise TemporaryError(
                "the login changed on disk while it was renewed", code="oauth_changed"
            ) from None
        why = refusal.message
        if refusal.after_lost_answer:
            why += " (an earlier answer was lost on its way, the token may have been spent by it)"
        await self._note_failure(tokens, why, lost=True)
        raise self._lost(why) from None

    async def _persist(self, unsaved: _Unsaved) -> TokenSet:
        # Kept in memory until it is on disk: the old refresh token is dead already.
        self._unsaved = unsaved
        tokens = unsaved.tokens
        await asyncio.to_thread(self._store.save, tokens, replaces=unsaved.replaces)
        self._unsaved = None
        log.info("oauth.refreshed", expires_at=tokens.expires_at)
        with contextlib.suppress(PermanentError):  # only the record: the login itself is saved
            await asyncio.to_thread(self._store.note_refreshed, tokens, self._clock())
        return tokens

    async def _disk(self) -> TokenSet:
        tokens = await asyncio.to_thread(self._store.load)
        if tokens is None:
            raise LoginRequiredError("the login was removed", hint="run `nanokimi login`")
        return tokens

    def _stumble(self, why: str) -> None:
        self._stumbled.set()

    async def _note_failure(self, tokens: TokenSet, why: str, *, lost: bool = False) -> None:
        with contextlib.suppress(PermanentError):  # the failure itself is about to be raised
            await asyncio.to_thread(self._store.note_failure, tokens, why, lost=lost)

    def _lost(self, why: str) -> LoginRequiredError:
        if self._lost_said != self._known:  # said once, not with every message that waits
            self._lost_said = self._known
            log.error("oauth.login_lost", why=why)
        return LoginRequiredError(f"the login is lost: {why}", hint="run `nanokimi login`")


def _retrieved(task: asyncio.Task[TokenSet]) -> None:
    """Its callers may all be gone: then nobody else would look at the failure."""
    if not task.cancelled():
        task.exception()
