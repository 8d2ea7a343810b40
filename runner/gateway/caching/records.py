"""The ids of caches, shared by the workers of a host, and outliving a crash of all of them."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from runner.gateway.state import StateStore, Stored

log = structlog.get_logger(__name__)

LIVE = "caches"
DOOMED = "caches.doomed"
MARGIN = 5.0
"""Seconds before its end from which a cache is not used: a request takes time to arrive."""
_WORTH_WRITING = 60.0
_POLL = 0.02
_ENTER_TRIES = 100


class Record(msgspec.Struct, frozen=True):
    """A cache at the provider. ``until`` is Unix seconds.

    Without an ``id`` it is being created, and ``until`` is when that is given up. ``workers`` are
    the processes whose conversations use it.
    """

    address: str
    fingerprint: str
    until: float
    id: str = ""
    ready: bool = False
    workers: tuple[str, ...] = ()

    def usable(self, now: float) -> bool:
        return self.ready and self.until > now + MARGIN


_Change = Callable[[Record], Record | None]


class Records:
    """One row a cache, by key; and the caches that are to be deleted, by id."""

    def __init__(self, state: StateStore, worker: str) -> None:
        self._state = state
        self._worker = worker

    def find(self, key: str) -> Record | None:
        return _record(self._state.records(LIVE).get(key))

    def claim(self, key: str, claim: Record, now: float) -> bool:
        """Whether it is for the caller to create this cache; nobody else will until it ends."""
        won = False

        def change(stored: Stored | None) -> Stored | None:
            nonlocal won
            known = _record(stored)
            won = known is None or known.until <= now + (MARGIN if known.id else 0)
            return _stored(claim) if won else stored

        self._state.update(LIVE, key, change)
        return won

    def put(self, key: str, record: Record) -> None:
        self._state.update(LIVE, key, lambda _: _stored(record))

    def drop(self, key: str, id_: str) -> None:
        """Forget a cache that is gone; with ``id_`` empty, a claim."""
        self._change(key, id_, lambda _: None)

    def extend(self, key: str, id_: str, until: float) -> None:
        """It lives on, and this worker uses it. Small steps are not worth a write."""
        known = self.find(key)
        if known is None or (
            self._worker in known.workers and until - known.until < _WORTH_WRITING
        ):
            return

        def change(record: Record) -> Record:
            workers = tuple(dict.fromkeys((*record.workers, self._worker)))
            return msgspec.structs.replace(record, workers=workers, until=max(until, record.until))

        self._change(key, id_, change)

    def leave(self, key: str) -> None:
        """This worker needs it no more; the last one dooms it."""
        known = self.find(key)
        if known is None or not known.id:
            return
        others = tuple(w for w in known.workers if w != self._worker)
        if others:
            self._change(key, known.id, lambda r: msgspec.structs.replace(r, workers=others))
        else:
            self.doom(known)
            self.drop(key, known.id)

    def doom(self, record: Record) -> None:
        """It is to be deleted: now, or at the next start."""
        self._state.update(DOOMED, record.id, lambda _: _stored(record))

    def doom_all(self) -> None:
        for key, stored in list(self._state.records(LIVE).items()):
            record = _record(stored)
            if record is not None and record.id:
                self.doom(record)
            self._state.update(LIVE, key, lambda _: None)

    def leave_all(self) -> None:
        for key in list(self._state.records(LIVE)):
            known = self.find(key)
            if known is not None and self._worker in known.workers:
                self.leave(key)

    def doomed(self) -> list[Record]:
        found = (_record(stored) for stored in self._state.records(DOOMED).values())
        return [record for record in found if record is not None]

    def deleted(self, id_: str) -> None:
        self._state.update(DOOMED, id_, lambda _: None)

    def _change(self, key: str, id_: str, change: _Change) -> None:
        """Change the record if it is still that of this cache."""

        def guarded(stored: Stored | None) -> Stored | None:
            record = _record(stored)
            if record is None or record.id != id_:
                return stored
            new = change(record)
            return None if new is None else _stored(new)

        self._state.update(LIVE, key, guarded)


class Presence:
    """Tells the first worker that comes and the last that goes, whatever becomes of them.

    All hold one file locked; the kernel lets go of it when a process dies. Without a ``path`` the
    worker is alone.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor = -1

    async def enter(self) -> bool:
        """Whether this is the first. Nobody else gets in before :meth:`settle`."""
        if self._path is None:
            return True
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o600)
        except OSError as e:
            log.warning("cache.lock_unavailable", path=str(self._path), error=str(e))
            return False
        if self._lock(fcntl.LOCK_EX):
            return True
        for _ in range(_ENTER_TRIES):
            if self._lock(fcntl.LOCK_SH):
                break
            await asyncio.sleep(_POLL)
        return False

    def settle(self) -> None:
        """Let others in."""
        self._lock(fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Whether this was the last."""
        if self._path is None:
            return True
        return self._lock(fcntl.LOCK_EX)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lock(self, kind: int) -> bool:
        if self._descriptor < 0:
            return False
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def _record(stored: Stored | None) -> Record | None:
    try:
        return None if stored is None else msgspec.convert(stored, Record)
    except msgspec.ValidationError:
        return None


def _stored(record: Record) -> Stored:
    found: Stored = msgspec.to_builtins(record)
    return found
