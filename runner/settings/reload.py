"""Watches ``config.toml`` while the host runs: a good change is handed on, a bad one is reported.

The directory is watched, not the file: editors and deployments replace it by rename. Only its
content counts, compared by digest, so a touched file or a neighbour's write changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

from watchfiles import awatch

from runner.errors import ConfigError
from runner.settings.schema import Settings

POLL = 5.0


async def watch_settings(
    path: Path,
    load: Callable[[], Settings],
    on_change: Callable[[Settings], None],
    on_error: Callable[[ConfigError], None],
    *,
    poll: float = POLL,
) -> None:
    """Run until cancelled. Compares with the content that ``path`` has when this is first awaited.

    Args:
        path: the config file; its directory must exist.
        load: reads and validates it anew; runs in a thread.
        on_change: gets valid new settings. Must not block, like ``on_error``.
        on_error: gets what is wrong with an invalid change; nothing else happens, the old settings
            stay. Each content is reported once.
        poll: seconds after which the content is compared without any notice from the system,
            which some network file systems never give.
    """
    seen = _digest(path)
    async for _ in awatch(
        path.parent,
        recursive=False,
        watch_filter=None,
        step=50,
        debounce=400,
        rust_timeout=int(poll * 1000),
        yield_on_timeout=True,
    ):
        found = await asyncio.to_thread(_digest, path)
        if found == seen:
            continue
        seen = found
        try:
            settings = await asyncio.to_thread(load)
        except ConfigError as e:
            on_error(e)
        else:
            on_change(settings)


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""
