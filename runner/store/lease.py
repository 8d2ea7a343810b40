"""One host's lease on a store: its place among the hosts, and what it owns."""

from __future__ import annotations

import time

from runner.store import hosts
from runner.store.hosts import Standing
from runner.store.store import Store


class Lease:
    """Take it with :meth:`enter`, keep it with :meth:`renew`, end it with :meth:`leave`.

    ``host`` is the id of this host; it stays the same over restarts.
    """

    def __init__(self, store: Store, host: str) -> None:
        self.host = host
        self._store = store
        self._run = time.time()

    async def enter(self) -> Standing:
        """Raises: PermanentError: there are too many hosts."""
        return await self._store.transact(lambda c: hosts.enter(c, self.host, self._run))

    async def renew(self) -> Standing:
        """Say that this host lives.

        Raises:
            ConflictError: another process has come as this host.
            PermanentError: it was silent for so long that others have all places.
        """
        return await self._store.transact(lambda c: hosts.renew(c, self.host, self._run))

    async def leave(self) -> None:
        """Give up everything: others may have it at once."""
        await self._store.transact(lambda c: hosts.leave(c, self.host, self._run))

    async def elsewhere(self) -> set[str]:
        """Groups that another living host owns."""
        return await self._store.read(lambda c: hosts.elsewhere(c, self.host))

    async def owner_elsewhere(self, group_id: str) -> str:
        """The other living host that owns the group; empty when none does."""
        return await self._store.read(lambda c: hosts.owner_elsewhere(c, group_id, self.host))

    async def take(self, group_id: str) -> str:
        """Have the group, also a new one, before it has a turn; the host that keeps it instead."""
        return await self._store.transact(
            lambda c: hosts.take_new(c, group_id, self.host), group_id
        )
