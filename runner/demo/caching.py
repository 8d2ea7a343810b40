"""Explicit context caching of the demo provider's open platform, as strict as it is described.

A cache holds messages and tools. A request hits it when its first messages and its tools are the
same, by hash; all of them must be in the request. What does not match is no hit, an id that is not
known is an error.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from runner.demo.catalog import OPEN_PLATFORM, DemoModel
from runner.demo.rules import ApiError, check_request, count_tokens, find_model, invalid

Json = Mapping[str, Any]
Status = Literal["pending", "ready", "error", "inactive"]

KIND = "context_cache_object"
MAX_TTL = 86_400
DEFAULT_TTL = 3_600
USE_HEADER = "x-msh-context-cache"
RESET_HEADER = "x-msh-context-cache-reset-ttl"
_KEYS = {"model", "messages", "tools", "ttl", "name", "description", "metadata", "tags"}
_CHANGEABLE = {"ttl", "metadata"}


@dataclass(frozen=True, slots=True)
class ContextCache:
    """Times are Unix seconds. ``length`` is the number of cached messages."""

    id: str
    owner: str = field(repr=False)
    model: str
    length: int
    digest: str
    tokens: int
    status: Status
    created_at: int
    expired_at: int
    metadata: Json = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": KIND,
            "model": self.model,
            "status": self.status,
            "tokens": self.tokens,
            "created_at": self.created_at,
            "expired_at": self.expired_at,
            "metadata": self.metadata,
        }


@dataclass(frozen=True, slots=True)
class Hit:
    """What a request gets from a cache: tokens that were there, and headers that say so."""

    tokens: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


class ContextCaches:
    """All caches, each of one credential. Thread-safe.

    Attributes:
        first_status: what a created cache is at first.
        looks: after how many looks (GET) a pending one is ready.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.first_status: Status = "ready"
        self.looks = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._caches: dict[str, ContextCache] = {}
        self._looked: dict[str, int] = {}

    def live(self) -> list[ContextCache]:
        """The caches that have not ended, oldest first."""
        with self._lock:
            return [c for c in self._caches.values() if c.expired_at > self._clock()]

    def lose_all(self) -> None:
        """Forget all caches, as if they had ended."""
        with self._lock:
            self._caches.clear()

    def create(self, owner: str, body: Json) -> ContextCache | ApiError:
        model = find_model(OPEN_PLATFORM, body.get("model"))
        if isinstance(model, ApiError):
            return model
        if problem := _problem_of(body, model):
            return problem
        now = int(self._clock())
        messages = body["messages"]
        cache = ContextCache(
            id=f"cache-{next(self._numbers):05d}",
            owner=owner,
            model=body["model"],
            length=len(messages),
            digest=digest_of(messages, body.get("tools")),
            tokens=count_tokens(body),
            status=self.first_status,
            created_at=now,
            expired_at=now + body.get("ttl", DEFAULT_TTL),
            metadata=body.get("metadata") or {},
        )
        with self._lock:
            self._caches[cache.id] = cache
        return cache

    def look(self, owner: str, id_: str) -> ContextCache | ApiError:
        with self._lock:
            cache = self._find(owner, id_)
            if isinstance(cache, ApiError) or cache.status != "pending":
                return cache
            self._looked[id_] = self._looked.get(id_, 0) + 1
            if self._looked[id_] >= self.looks:
                cache = self._caches[id_] = replace(cache, status="ready")
            return cache

    def change(self, owner: str, id_: str, body: Json) -> ContextCache | ApiError:
        """A new life of ``ttl`` seconds from now on, or other metadata; never other content."""
        if unknown := set(body) - _CHANGEABLE:
            return invalid(f"these fields cannot be changed: {', '.join(sorted(unknown))}")
        if "ttl" in body and not _is_ttl(body["ttl"]):
            return _bad_ttl()
        with self._lock:
            cache = self._find(owner, id_)
            if isinstance(cache, ApiError):
                return cache
            ends = int(self._clock()) + body["ttl"] if "ttl" in body else cache.expired_at
            metadata = body.get("metadata", cache.metadata)
            self._caches[id_] = replace(cache, expired_at=ends, metadata=metadata)
            return self._caches[id_]

    def delete(self, owner: str, id_: str) -> ContextCache | ApiError:
        with self._lock:
            cache = self._find(owner, id_)
            if not isinstance(cache, ApiError):
                del self._caches[id_]
            return cache

    def of(self, owner: str) -> list[ContextCache]:
        return [cache for cache in self.live() if cache.owner == owner]

    def use(self, owner: str, headers: Mapping[str, str], body: Json) -> Hit | ApiError:
        """What a chat request gets; headers have lower-case names. Each hit may renew the life."""
        id_, ttl = headers.get(USE_HEADER), headers.get(RESET_HEADER)
        if id_ is None:
            return Hit() if ttl is None else invalid(f"{RESET_HEADER} goes with {USE_HEADER}")
        if ttl is not None and not (re.fullmatch(r"\d{1,6}", ttl) and _is_ttl(int(ttl))):
            return _bad_ttl()
        with self._lock:
            cache = self._find(owner, id_)
            if isinstance(cache, ApiError):
                return cache
            if cache.status != "ready" or not _matches(cache, body):
                return Hit()
            if ttl is not None:
                ends = int(self._clock()) + int(ttl)
                cache = self._caches[id_] = replace(cache, expired_at=ends)
        return Hit(
            cache.tokens,
            {
                "Msh-Context-Cache-Id": cache.id,
                "Msh-Context-Cache-Token-Saved": str(cache.tokens),
                "Msh-Context-Cache-Token-Exp": str(cache.expired_at),
            },
        )

    def _find(self, owner: str, id_: str) -> ContextCache | ApiError:
        cache = self._caches.get(id_)
        if cache is None or cache.owner != owner or cache.expired_at <= self._clock():
            return ApiError(404, "resource_not_found_error", f"Not found the cache {id_[:80]}")
        return cache


def digest_of(messages: list[Any], tools: object) -> str:
    """Field values count, and the order of messages and tools; nothing may be left out."""
    text = json.dumps([messages, tools or None], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _matches(cache: ContextCache, body: Json) -> bool:
    family = body["model"] == cache.model or str(body["model"]).startswith(f"{cache.model}-")
    first = body["messages"][: cache.length]
    return family and digest_of(first, body.get("tools")) == cache.digest


def _problem_of(body: Json, model: DemoModel) -> ApiError | None:
    if unknown := set(body) - _KEYS:
        return invalid(f"unknown fields: {', '.join(sorted(map(str, unknown)))}")
    if not _is_ttl(body.get("ttl", DEFAULT_TTL)):
        return _bad_ttl()
    if not isinstance(body.get("metadata") or {}, Mapping):
        return invalid("metadata must be an object")
    if not isinstance(messages := body.get("messages"), list) or not messages:
        return invalid("messages must be a non-empty list")
    asked = {"messages": messages, "tools": body.get("tools")}
    return check_request(asked, model)


def _is_ttl(value: object) -> bool:
    return type(value) is int and 0 < value <= MAX_TTL


def _bad_ttl() -> ApiError:
    return invalid(f"ttl must be a whole number of seconds, 1 to {MAX_TTL}")
