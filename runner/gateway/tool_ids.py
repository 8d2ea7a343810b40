"""Ids of tool calls that every API takes: at most 64 characters, derived only from the long one."""

from __future__ import annotations

import hashlib

MAX_TOOL_ID = 64
_KEPT = 40
_DIGEST_BYTES = 10


def short_id(id_: str) -> str:
    """The id itself, or for a longer one its beginning and a digest: always the same."""
    if len(id_) <= MAX_TOOL_ID:
        return id_
    digest = hashlib.blake2b(id_.encode("utf-8", "replace"), digest_size=_DIGEST_BYTES)
    return f"{id_[:_KEPT]}-{digest.hexdigest()}"
