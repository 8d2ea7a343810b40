"""A provider as the host calls it: where it is, and who we are there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from runner import __version__

# Honest, and our own: some providers look at it, and a client's is never passed on.
USER_AGENT = f"nanokimi/{__version__}"

TokenGetter = Callable[[str | None], Awaitable[str]]
"""Gives a bearer token. The argument is a token that was just rejected with 401, or ``None``.

Raises:
    LoginRequiredError: there is no usable login.
    TemporaryError: one could be had later (the OAuth server does not answer).
"""


@dataclass(frozen=True, slots=True)
class Upstream:
    """``base_url`` without a trailing slash; ``headers`` are the operator's, sent as they are."""

    base_url: str
    token: TokenGetter = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
