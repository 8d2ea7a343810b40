"""A call that failed, in words that either API's error shape can carry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GatewayFailure:
    """``status`` is HTTP's, ``type`` the provider's or ours, ``retry_after`` in seconds."""

    status: int
    type: str
    message: str
    retry_after: float | None = None
