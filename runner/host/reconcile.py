"""Compares now and then what the pool believes with what the engine has.

A sandbox that nobody knows is what a failed start or stop left behind: it is ended. A session whose
sandbox the engine does not have would keep its slot for ever: it is dropped, and its turn is tried
again. A start has a deadline and a stop is repeated until it is confirmed, so neither gets stuck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from runner.errors import NanokimiError
from runner.host.opener import Opener
from runner.host.pool import Pool
from runner.sandbox.spawner import SandboxInfo, Spawner

log = structlog.get_logger()

RECONCILE = 60.0


def strays(
    listed: Collection[SandboxInfo], known: Collection[str], elsewhere: Collection[str]
) -> list[SandboxInfo]:
    """Sandboxes of groups that neither this host nor another living one has."""
    return [i for i in listed if i.group not in known and i.group not in elsewhere]


def leaked(listed: Collection[SandboxInfo], warm: Collection[SandboxInfo]) -> list[str]:
    """Groups whose sandbox was there before the engine was asked, and is not listed as running."""
    running = {i.ref for i in listed if i.running}
    return [i.group for i in warm if i.ref not in running]


async def keep_reconciled(pool: Pool, opener: Opener, spawner: Spawner) -> None:
    """Do it every minute, until cancelled."""
    while True:
        await asyncio.sleep(RECONCILE)
        try:
            await reconcile(pool, opener, spawner)
        except NanokimiError as e:
            log.warning("sandbox.not_reconciled", code=e.code, error=e.message)


async def reconcile(pool: Pool, opener: Opener, spawner: Spawner) -> None:
    """Raises: EngineError."""
    before = {group: session.sandbox.info for group, session in pool.warm().items()}
    listed = await spawner.list()
    for group in leaked(listed, list(before.values())):
        session = pool.warm().get(group)
        if session is not None and session.sandbox.info == before[group] and session.alive:
            log.warning("sandbox.lost", group=group, ref=before[group].ref[:12])
            await pool.drop(group)
    elsewhere = await opener.elsewhere()
    for info in strays(listed, pool.groups(), elsewhere):
        log.warning("sandbox.stray_ended", group=info.group, ref=info.ref[:12])
        await opener.end(info)
