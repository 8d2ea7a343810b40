"""Every hour the host forgets what ended longer ago than ``[store] keep_messages``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from runner.errors import NanokimiError
from runner.store import Store
from runner.store.retention import Retention

log = structlog.get_logger()

SWEEP_EVERY = 3600.0
_PAUSE = 0.02
"""Between two batches others have their turn at the database."""


async def keep_forgetting(store: Store, keep: Callable[[], float]) -> None:
    """Look at once and then every hour, until cancelled. ``keep`` is in seconds."""
    retention = Retention(store)
    while True:
        try:
            await forget(retention, time.time() - keep())
        except NanokimiError as e:
            log.warning("store.not_swept", code=e.code, error=e.message)
        await asyncio.sleep(SWEEP_EVERY)


async def forget(retention: Retention, before: float) -> None:
    """Forget all that ended before ``before`` (Unix seconds). Raises: TemporaryError."""
    batches = 0
    while await retention.forget(before):
        batches += 1
        await asyncio.sleep(_PAUSE)
    await retention.lost_sessions()
    if batches:
        log.info("store.swept", batches=batches)
