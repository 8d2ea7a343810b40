"""What of a request is cached, where, and under which key. Pure.

The provider compares by hash: the first N messages of a request and all of its tools must be those
of the cache. A key is therefore made of their bytes as they are sent; equal keys are equal bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from urllib.parse import urlsplit

import msgspec

from runner.gateway.formats import Json
from runner.settings.models import ModelFacts

_encode = msgspec.json.Encoder().encode
_SIZE_OF_MODEL = re.compile(r"-(?:\d+[km]|auto)(?:-.*)?$")


@dataclass(frozen=True, slots=True)
class Prefix:
    """The system messages that a request begins with, and its tools (``None`` for none)."""

    messages: tuple[Json, ...]
    tools: tuple[Any, ...] | None

    @property
    def body(self) -> Json:
        """The cached part of a create request."""
        body: Json = {"messages": self.messages}
        return body if self.tools is None else {**body, "tools": self.tools}


@dataclass(frozen=True, slots=True)
class Place:
    """Whose cache it is: the address of the caching API, the credential, the model's family."""

    address: str
    fingerprint: str
    family: str


def prefix_of(request: Json) -> Prefix | None:
    """What can be cached of a request that is ready to be sent; ``None`` without system text."""
    messages = request.get("messages")
    opening = takewhile(_is_system, messages if isinstance(messages, list) else ())
    found = tuple(opening)
    if not found:
        return None
    tools = request.get("tools")
    return Prefix(found, tuple(tools) if isinstance(tools, list) and tools else None)


def _is_system(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") == "system"


def key_of(place: Place, prefix: Prefix) -> str:
    """Names a cache by its content and place; the same for every group that sends the same."""
    content = _encode(
        (place.address, place.fingerprint, place.family, prefix.messages, prefix.tools)
    )
    return hashlib.sha256(content).hexdigest()


def family_of(model: str, facts: ModelFacts | None) -> str:
    """The name that caches are made for: ``moonshot-v1`` for each of its sizes."""
    name = facts.id if facts is not None else model.rsplit("/", 1)[-1]
    return _SIZE_OF_MODEL.sub("", name)


def address_of(base_url: str, hosts: Collection[str]) -> str | None:
    """The caching API of a base URL; ``None`` when its host is not one of ``hosts``.

    A host may be given with a port. Case, a trailing slash and a missing ``/v1`` do not matter.
    """
    parts = urlsplit(base_url.strip())
    host = (parts.hostname or "").rstrip(".")
    name = f"[{host}]" if ":" in host else host
    try:
        netloc = name if parts.port is None else f"{name}:{parts.port}"
    except ValueError:  # not a port
        return None
    offered = {h.strip().rstrip(".").lower() for h in hosts}
    if not host or not offered & {host, name, netloc}:
        return None
    if parts.scheme not in ("http", "https") or parts.path.rstrip("/").lower() not in ("", "/v1"):
        return None
    return f"{parts.scheme}://{netloc}/v1/caching"
