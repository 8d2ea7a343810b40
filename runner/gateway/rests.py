"""Rests and rates of all keys, in a store that workers share. The rules are in ``cooldown``."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from runner.gateway import cooldown, rate
from runner.gateway.cooldown import Key, Phase, Rest
from runner.gateway.failure import Verdict
from runner.gateway.state import StateStore, Stored

NEWS = 2.0
"""Seconds after which to look again while somebody else's probe is under way."""

_RESTS = "rest"
_RATES = "rate"


@dataclass(frozen=True, slots=True)
class Standing:
    """``wait`` seconds until it may be asked; ``firm`` when the provider named that time."""

    wait: float = 0.0
    firm: bool = False
    reason: str = ""


class Rests:
    """Who may be asked now.

    Args:
        jitter: gives 0 to 1.
    """

    def __init__(self, store: StateStore, jitter: Callable[[], float] = random.random) -> None:
        self._store = store
        self._jitter = jitter

    def standing(self, key: Key, now: float) -> Standing:
        """How a key stands: the longest rest of its endpoint, its credential and its model."""
        found = Standing()
        for _, rest in self._resting(key):
            wait = rest.wait(now)
            if rest.phase is Phase.HALF_OPEN:
                wait = min(wait, NEWS)
            if wait > 0 and (rest.firm, wait) > (found.firm, found.wait):
                found = Standing(wait, rest.firm, rest.reason)
        return found

    def enter(self, key: Key, now: float, *, force: bool = False) -> bool:
        """Whether it may be asked now. After a rest only one caller may, as its probe.

        ``force`` asks in spite of a rest that is not firm. Report with :meth:`failed`,
        :meth:`succeeded` or :meth:`abandoned` how it went.
        """
        mine: list[Key] = []
        for part, _ in self._resting(key):
            if not self._enter_one(part, now, force):
                for entered in mine:
                    self._change(entered, lambda rest: cooldown.abandoned(rest, now))
                return False
            mine.append(part)
        return True

    def failed(
        self, key: Key, verdict: Verdict, now: float, *, started: float, seconds: float
    ) -> None:
        """A call that began at ``started`` failed; ``seconds`` is the cooldown of its entry."""
        if verdict.scope is None:
            self.abandoned(key, now)
            return
        failing = key.at(verdict.scope)
        for part, _ in self._resting(key):
            if part != failing:
                self._change(part, lambda rest: cooldown.abandoned(rest, now))
        jitter = self._jitter()
        self._change(
            failing,
            lambda rest: cooldown.failed(
                rest, verdict, now, started=started, cooldown=seconds, jitter=jitter
            ),
        )

    def succeeded(self, key: Key, now: float, *, started: float) -> None:
        """A call that began at ``started`` got its first byte."""
        for part, _ in self._resting(key):
            self._change(part, lambda rest: cooldown.succeeded(rest, now, started=started))

    def abandoned(self, key: Key, now: float) -> None:
        """A call ended and taught nothing."""
        for part, _ in self._resting(key):
            self._change(part, lambda rest: cooldown.abandoned(rest, now))

    def take(self, key: Key, rpm: int, group: str, now: float) -> float:
        """Take one of the credential's requests a minute; the seconds to wait when none is left."""
        wait = 0.0

        def change(stored: Stored | None) -> Stored:
            nonlocal wait
            bucket, wait = rate.take(rate.Bucket.from_dict(stored), now, rpm=rpm, group=group)
            return bucket.as_dict()

        self._store.update(_RATES, Key(key.endpoint, key.fingerprint).text, change)
        return wait

    def _resting(self, key: Key) -> list[tuple[Key, Rest]]:
        """Of endpoint, credential and model those that are not closed: most of the time none."""
        records = self._store.records(_RESTS)
        if not records:
            return []
        found = ((part, Rest.from_dict(records.get(part.text))) for part in key.all)
        return [(part, rest) for part, rest in found if rest.phase is not Phase.CLOSED]

    def _enter_one(self, key: Key, now: float, force: bool) -> bool:
        allowed = False

        def change(rest: Rest) -> Rest:
            nonlocal allowed
            allowed = rest.wait(now) == 0 or (force and not rest.firm)
            return cooldown.entered(rest, now) if allowed else rest

        self._change(key, change)
        return allowed

    def _change(self, key: Key, change: Callable[[Rest], Rest]) -> None:
        def stored(record: Stored | None) -> Stored | None:
            rest = change(Rest.from_dict(record))
            return None if rest.phase is Phase.CLOSED else rest.as_dict()

        self._store.update(_RESTS, key.text, stored)
