"""What a channel is: it tells a chat one thing, and says what became of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runner.model import Delivery


@dataclass(frozen=True, slots=True)
class Delivered:
    """The other side has it."""


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """The other side wants to be asked again after so many seconds, and says ``reason``."""

    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It did not arrive, or nobody knows whether it did: worth another try."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The other side does not want it: another try changes nothing."""

    reason: str


Result = Delivered | RetryAfter | Failed | Rejected


class Channel(Protocol):
    """One kind of place to send to."""

    async def send(self, delivery: Delivery, max_chars: int, timeout: float) -> Result:
        """Try once, for at most ``timeout`` seconds. A delivery has the same ``id`` at every try.

        Args:
            max_chars: longer texts are split; 0 never.

        Raises:
            NanokimiError: the host itself cannot send now; worth another try.
        """
        ...

    async def aclose(self) -> None: ...
