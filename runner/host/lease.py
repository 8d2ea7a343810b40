"""Keeps this host's lease on the store, and finds work that reached the store by other ways."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import structlog

from runner.errors import ConflictError, NanokimiError, TemporaryError
from runner.host.trouble import Trouble
from runner.store import Store
from runner.store.hosts import LEASE, Standing
from runner.store.lease import Lease

log = structlog.get_logger()

RENEW = LEASE / 4
RENEW_AGAIN = 1.0
# Work comes by other ways when another host takes messages, or leaves turns behind.
LOOK_AMONG_OTHERS = 1.0
LOOK_ALONE = 15.0


def host_id(path: Path) -> str:
    """The name of the host of this data directory, made once and kept in the file ``path``.

    Raises:
        TemporaryError: it can neither be read nor written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            new.write_text(secrets.token_hex(8))
            new.replace(path)
        kept = path.read_text().strip()
    except OSError as e:
        raise TemporaryError(
            f"{path} cannot be used: {e.strerror}",
            hint="make the data directory writable",
            code="host_id",
        ) from None
    if not (kept.isalnum() and kept.isascii() and len(kept) <= 64):
        raise ConflictError(
            f"{path} does not hold the name of a host", hint="remove that file", code="host_id"
        )
    return kept


class Keeper:
    """See the module.

    Args:
        seat: called with this host's slot when it has got another.
        has: groups whose sandboxes this host has.
        let_go: called with a group that another host has taken.
        wake: called with a group that has work.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        standing: Standing,
        *,
        seat: Callable[[int], None],
        has: Callable[[], Collection[str]],
        let_go: Callable[[str], Awaitable[None]],
        wake: Callable[[str], None],
    ) -> None:
        self.standing = standing
        self._store = store
        self._lease = lease
        self._seat = seat
        self._has = has
        self._let_go = let_go
        self._wake = wake

    async def keep(self) -> None:
        """Renew the lease until cancelled.

        Raises:
            ConflictError: another process has come as this host, which must end.
            PermanentError: others have taken its place.
        """
        trouble = Trouble("lease.not_renewed")
        while True:
            try:
                before, self.standing = self.standing, await self._lease.renew()
                if self.standing.slot != before.slot:  # it was silent, and another came meanwhile
                    log.warning("lease.another_slot", slot=self.standing.slot, before=before.slot)
                    self._seat(self.standing.slot)
                if self.standing.others:
                    for group in await self._lease.elsewhere() & set(self._has()):
                        log.warning("group.taken_by_another_host", group=group)
                        await self._let_go(group)
            except TemporaryError as e:
                trouble.met(e)
                await asyncio.sleep(RENEW_AGAIN)
            else:
                trouble.over()
                await asyncio.sleep(RENEW)

    async def look(self) -> None:
        """Wake groups that have work, now and then, until cancelled."""
        trouble = Trouble("work.not_looked_for")
        while True:
            try:
                for group in await self._store.groups_with_work(self._lease.host):
                    self._wake(group)
                trouble.over()
            except NanokimiError as e:
                trouble.met(e)
            await asyncio.sleep(LOOK_AMONG_OTHERS if self.standing.others else LOOK_ALONE)
