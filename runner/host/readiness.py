"""What has to work for a message to be answered."""

from __future__ import annotations

from runner.errors import NanokimiError
from runner.host.credentials import Credentials
from runner.sandbox.spawner import Spawner
from runner.settings.schema import Settings
from runner.store import Store


async def readiness(
    store: Store, spawner: Spawner, credentials: Credentials, settings: Settings
) -> dict[str, str]:
    """``ok`` or what is wrong, each by its name."""
    checks = {"store": "ok", "engine": "ok", "login": "ok"}
    try:
        await store.last_event_id()
    except NanokimiError as e:
        checks["store"] = e.message
    try:
        await spawner.check()
    except NanokimiError as e:
        checks["engine"] = f"{e.message}. {e.hint}"
    try:
        await credentials.check(settings.for_group("ready").provider)
    except NanokimiError as e:
        checks["login"] = f"{e.message}. {e.hint}"
    return checks
