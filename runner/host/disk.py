"""Sees that no group fills the disk: counts what its files take, and ends who takes too much.

Neither Docker nor a process can be given a quota on a directory of the host, so this looks now and
then, and a fast writer gets further in between. Who is over twice the limit is not started again.
One tree is counted at a time, and the longer it took, the later the next time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from runner.errors import NanokimiError, PermanentError
from runner.host.session import AgentSession
from runner.sandbox.spawner import Spawner, Usage
from runner.sandbox.trees import Missing

log = structlog.get_logger()

MAX_ENTRIES = 1_000_000
EVERY = 3.0
"""Seconds between two looks at a group; at least 20 times as long as a look takes."""

HOPELESS = 2
"""Times the limit: with more than that a group gets no turn until somebody has removed files."""

_SHARE = 20
_DEADLINE = 120.0
_ROOM_TO_CLEAN = 1 << 20


def over_quota(group: str, found: Usage, before: Usage, limit: int) -> PermanentError | None:
    """Why a sandbox has to end whose group had ``before`` when it began, or ``None``. Pure.

    One that began with too much may go on as long as it does not take more: somebody has to be
    able to tell its agent to clean up.
    """
    if found.missing not in (None, Missing.TIME):
        return PermanentError(
            f"the files of group {group!r} cannot be counted: {found.missing}",
            hint="the operator has to remove some of them from its workspace",
            code="disk_quota",
        )
    if found.used <= limit:
        return None
    if limit < before.used <= HOPELESS * limit and found.used <= before.used + _ROOM_TO_CLEAN:
        return None
    return PermanentError(
        f"the files of group {group!r} take {_mib(found.used)}, and {_mib(limit)} are allowed",
        hint="have some of them removed, or raise [sandbox] disk or the group's limits.disk",
        code="disk_quota",
    )


class DiskWatch:
    """Looks after all groups that have a sandbox.

    Args:
        warm: the sessions by group; ``limit``: what a group's files may take, in bytes.
    """

    def __init__(
        self,
        spawner: Spawner,
        warm: Callable[[], Mapping[str, AgentSession]],
        limit: Callable[[str], int],
    ) -> None:
        self._spawner = spawner
        self._warm = warm
        self._limit = limit
        self._last: dict[str, Usage] = {}
        self._seen: dict[str, _Seen] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            warm = self._warm()
            self._forget(warm)
            for group, session in warm.items():
                seen = self._seen.get(group)
                if seen is None or seen.session is not session:
                    seen = _Seen(session, self._last.get(group, Usage()))
                    self._seen[group] = seen
                if seen.due <= time.monotonic():
                    await self._look(group, seen)
            await asyncio.sleep(EVERY / 3)

    async def check(self, group: str, folder: str) -> None:
        """Before a turn. Raises: PermanentError: the group's files take far too much."""
        limit = self._limit(group)
        if self._last.get(group, Usage()).used > HOPELESS * limit:
            found = await self._count(group, folder)
            if found is not None and (why := over_quota(group, found, found, limit)):
                raise why

    async def _look(self, group: str, seen: _Seen) -> None:
        began = time.monotonic()
        session = seen.session
        found = await self._count(group, session.sandbox.info.folder)
        now = time.monotonic()
        seen.due = now + max(EVERY, _SHARE * (now - began))
        if found is None:
            return
        why = over_quota(group, found, seen.before, self._limit(group))
        if why is not None and session.alive:
            log.warning("disk.quota", group=group, used=found.used, files=found.entries)
            session.condemn(why)

    async def _count(self, group: str, folder: str) -> Usage | None:
        volume = self._spawner.volume(folder)
        try:
            found = await asyncio.to_thread(volume.measure, MAX_ENTRIES, _DEADLINE)
        except NanokimiError as e:
            log.warning("disk.not_counted", group=group, code=e.code, error=e.message)
            return None
        self._last[group] = found
        return found

    def _forget(self, warm: Mapping[str, AgentSession]) -> None:
        """Keep in mind who has a sandbox, and who had too much when it ended."""
        for group in self._seen.keys() - warm.keys():
            del self._seen[group]
        for group in self._last.keys() - warm.keys():
            if self._last[group].used <= self._limit(group):
                del self._last[group]


@dataclass(slots=True)
class _Seen:
    """A session, what its group had before it, and when to look again (monotonic seconds)."""

    session: AgentSession
    before: Usage
    due: float = 0.0


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
