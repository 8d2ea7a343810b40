"""What can be made to go wrong, once or a few times, at the demo provider."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Endpoint = Literal["chat", "token", "device", "models", "caching", "search"]

DEFAULT_TYPE = "server_error"
DEFAULT_MESSAGE = "The demo provider was told to fail"
MAX_DELAY = 60.0
MAX_PENDING = 10_000


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with the next request to ``endpoint``.

    ``status`` (with ``type``, ``message``, ``headers``) or ``body`` (with ``content_type``) answers
    in place of the real answer: the request is not processed. The others spoil the real answer,
    so the request *is* processed: ``delay`` seconds before the headers (at most 60);
    ``cut_after`` N chunks the connection breaks; ``end_after`` N chunks the answer ends as if it
    were whole; ``stall_after`` N chunks nothing more comes until the client leaves.
    A JSON answer counts as two chunks, and N = 0 means right after the headers.
    """

    endpoint: Endpoint = "chat"
    status: int = 0
    type: str = DEFAULT_TYPE
    message: str = DEFAULT_MESSAGE
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "text/html"
    delay: float = 0.0
    cut_after: int | None = None
    end_after: int | None = None
    stall_after: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.delay <= MAX_DELAY:
            raise ValueError(f"delay is not within 0..{MAX_DELAY} seconds")
        if self.status and not 200 <= self.status <= 599:
            raise ValueError(f"{self.status} is not a status that ends a request")

    @property
    def replaces(self) -> bool:
        """Whether the request is answered without being processed."""
        return bool(self.status) or self.body is not None


class Faults:
    """Faults waiting for their request, first in, first out for each endpoint. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Fault]] = {}

    def add(self, fault: Fault, times: int = 1) -> None:
        """Let the next ``times`` requests of the fault's endpoint meet it.

        Raises:
            ValueError: more faults than 10,000 would be waiting.
        """
        with self._lock:
            waiting = self._waiting.setdefault(fault.endpoint, deque())
            if len(waiting) + times > MAX_PENDING:
                raise ValueError(f"more than {MAX_PENDING} waiting faults")
            waiting.extend([fault] * times)

    def take(self, endpoint: Endpoint) -> Fault | None:
        """The fault this request meets, if any; it is used up."""
        with self._lock:
            waiting = self._waiting.get(endpoint)
            return waiting.popleft() if waiting else None

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    @property
    def waiting(self) -> int:
        with self._lock:
            return sum(map(len, self._waiting.values()))
