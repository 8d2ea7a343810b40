"""Requests a minute for one key: a token bucket that groups share fairly. Pure.

While more than half of the bucket is left, anybody may take. Below that, a group that took more
than the average of the last minute waits until the others have had their share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MINUTE = 60.0
_WAITING = 0.1
"""Counts as taken by a group that found nothing, so that others know of it for a while."""
_FORGOTTEN = 0.05
MAX_GROUPS = 1000


@dataclass(frozen=True, slots=True)
class Bucket:
    """``left`` requests at Unix time ``at``; ``taken`` by each group lately, fading in a minute."""

    left: float
    at: float
    taken: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For storage."""
        return {"left": self.left, "at": self.at, "taken": dict(self.taken)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any] | None) -> Bucket | None:
        """Back from storage; ``None`` when it cannot be read."""
        match stored:
            case {"left": int() | float() as left, "at": int() | float() as at, "taken": dict(t)}:
                return cls(float(left), float(at), t)
        return None


def take(bucket: Bucket | None, now: float, *, rpm: int, group: str) -> tuple[Bucket, float]:
    """Take one request for a group, if there is one for it.

    Returns:
        The bucket afterwards, and the seconds to wait: 0 when the request was taken.
    """
    full = float(rpm)
    filling = full / MINUTE
    filled = _refilled(bucket, now, full)
    taken = dict(filled.taken)
    own = taken.get(group, 0.0)
    average = sum(taken.values()) / len(taken.keys() | {group})
    if filled.left <= full / 2 and own > average:
        return filled, (full / 2 - filled.left + 1) / filling
    empty = filled.left < 1
    taken[group] = max(own, _WAITING) if empty else own + 1
    if len(taken) > MAX_GROUPS:
        del taken[min(taken, key=lambda name: (taken[name], name))]
    if empty:
        return Bucket(filled.left, now, taken), (1 - filled.left) / filling
    return Bucket(filled.left - 1, now, taken), 0.0


def _refilled(bucket: Bucket | None, now: float, full: float) -> Bucket:
    if bucket is None:
        return Bucket(full, now)
    passed = max(0.0, now - bucket.at)
    fading = math.exp(-passed / MINUTE)
    taken = {g: t * fading for g, t in bucket.taken.items() if t * fading > _FORGOTTEN}
    return Bucket(min(full, bucket.left + passed * full / MINUTE), now, taken)
