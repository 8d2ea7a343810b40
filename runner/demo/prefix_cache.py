"""Counts cached tokens the way Kimi does: by common prefix, in whole chunks of 256 tokens."""

from __future__ import annotations

from collections import OrderedDict, deque

CHUNK_TOKENS = 256
BYTES_PER_TOKEN = 4
MAX_KEYS = 256
MAX_PROMPTS = 4


class PrefixCache:
    """Remembers the last few prompts of each credential and ``prompt_cache_key``."""

    def __init__(self) -> None:
        self._prompts: OrderedDict[tuple[str, str], deque[bytes]] = OrderedDict()

    def cached_tokens(self, credential: str, key: str, prompt: bytes) -> int:
        """Tokens of ``prompt`` that an earlier prompt began with; the prompt is remembered."""
        prompts = self._prompts.setdefault((credential, key), deque(maxlen=MAX_PROMPTS))
        self._prompts.move_to_end((credential, key))
        if len(self._prompts) > MAX_KEYS:
            self._prompts.popitem(last=False)
        common = max((common_prefix(old, prompt) for old in prompts), default=0)
        prompts.append(prompt)
        return common // BYTES_PER_TOKEN // CHUNK_TOKENS * CHUNK_TOKENS


def common_prefix(a: bytes, b: bytes) -> int:
    """Length of the longest common prefix, by halving: a comparison of slices is one memcmp."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
