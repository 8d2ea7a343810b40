"""What goes wrong again and again, said now and then: when it begins, ever rarer, and when over."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from runner.errors import NanokimiError

log = structlog.get_logger()

FIRST_SILENCE = 10.0
LONGEST_SILENCE = 600.0


class Trouble:
    """One loop's failures, which the log calls ``event``; ``about`` is said with each.

    An error of another code than the last one is news, and is said at once.
    """

    def __init__(
        self, event: str, *, clock: Callable[[], float] = time.monotonic, **about: str
    ) -> None:
        self._event = event
        self._clock = clock
        self._about = about
        self._code = ""
        self._silence = 0.0
        self._next = 0.0
        self._times = 0

    def met(self, error: NanokimiError) -> None:
        """It failed."""
        now = self._clock()
        self._times += 1
        if error.code != self._code:
            self._code, self._silence = error.code, FIRST_SILENCE
        elif now < self._next:
            return
        else:
            self._silence = min(2 * self._silence, LONGEST_SILENCE)
        self._next = now + self._silence
        log.warning(
            self._event, **self._about, code=error.code, error=error.message, times=self._times
        )

    def over(self) -> None:
        """It worked."""
        if self._code:
            log.info("works.again", **self._about, after=self._event, times=self._times)
            self._code, self._times = "", 0
