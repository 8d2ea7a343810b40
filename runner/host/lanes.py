"""Who may send next: groups side by side, a receiver's groups only some at a time. Pure.

A receiver that hangs holds up its own lane; without lanes, its groups would soon fill every place
there is. A group is known by its next delivery only, so memory grows with groups, not with what
waits.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Entry:
    lane: str
    due: float
    number: int


class Lanes:
    """``total`` groups may send at one time, ``each`` of one lane. Times are the caller's."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._numbers = itertools.count()
        self._waiting: dict[str, _Entry] = {}
        self._heap: list[tuple[float, int, str, str]] = []
        self._parked: dict[str, deque[tuple[int, str]]] = {}
        self._running: dict[str, str] = {}
        self._busy: Counter[str] = Counter()

    def put(self, group: str, lane: str, due: float) -> None:
        """The group's next is due then. Of no effect while it sends: see :meth:`done`."""
        known = self._waiting.get(group)
        if group in self._running or (known and (known.lane, known.due) == (lane, due)):
            return
        entry = self._waiting[group] = _Entry(lane, due, next(self._numbers))
        heapq.heappush(self._heap, (due, entry.number, group, lane))

    def drop(self, group: str) -> None:
        """It has nothing to send."""
        self._waiting.pop(group, None)

    def take(self, now: float) -> str | None:
        """A group that may send now, the one that was due first; call :meth:`done` after it."""
        while (due := self.next_due()) is not None and due <= now:
            _, number, group, lane = heapq.heappop(self._heap)
            if self._busy[lane] >= self._each:
                self._parked.setdefault(lane, deque()).append((number, group))
                continue
            del self._waiting[group]
            self._running[group] = lane
            self._busy[lane] += 1
            return group
        return None

    def done(self, group: str) -> None:
        """It has sent, or could not: say by :meth:`put` what is next."""
        lane = self._running.pop(group)
        self._busy -= Counter({lane: 1})
        self._unpark(lane)

    def next_due(self) -> float | None:
        """When :meth:`take` may have something if nothing else happens; ``None``: never."""
        if len(self._running) >= self._total:
            return None
        while self._heap:
            due, number, group, lane = self._heap[0]
            if self._is_new(group, number):
                return due
            heapq.heappop(self._heap)
            self._unpark(lane)  # it had the place of one that waits for its lane
        return None

    def idle(self, now: float) -> bool:
        """Nothing is being sent, and nothing is due."""
        due = self.next_due()
        return not self._running and (due is None or due > now)

    def _unpark(self, lane: str) -> None:
        """There is room in the lane for one more."""
        parked = self._parked.get(lane, deque())
        while parked:
            number, group = parked.popleft()
            if self._is_new(group, number):
                due = self._waiting[group].due
                heapq.heappush(self._heap, (due, number, group, lane))
                break
        if not parked:
            self._parked.pop(lane, None)

    def _is_new(self, group: str, number: int) -> bool:
        entry = self._waiting.get(group)
        return entry is not None and entry.number == number
