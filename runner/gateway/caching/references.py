"""Which conversation needs which cache, so that one that nobody needs any more can be deleted."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

MAX_CONVERSATIONS = 10_000
MAX_HELD = 4
MAX_LEFT = 8


@dataclass(slots=True)
class _Conversation:
    held: list[str] = field(default_factory=list)
    left: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LEFT))


class References:
    """Counts by conversation and place. Methods give the keys that have lost their last user.

    A conversation needs one cache: with other content it lets go of the one before. One that comes
    back to content it had left alternates (an agent and its helper under one name), and then holds
    on to both; else each turn would delete and create.
    """

    def __init__(self) -> None:
        self._conversations: OrderedDict[str, _Conversation] = OrderedDict()
        self._users: dict[str, int] = {}

    def use(self, conversation: str, key: str) -> list[str]:
        """``conversation`` sends the content of ``key``."""
        known = self._conversations.setdefault(conversation, _Conversation())
        self._conversations.move_to_end(conversation)
        if key in known.held:
            return []
        if key in known.left:
            gone, known.held = known.held[: 1 - MAX_HELD], known.held[1 - MAX_HELD :]
        else:
            gone, known.held = known.held, []
        known.held.append(key)
        known.left.extend(gone)
        self._users[key] = self._users.get(key, 0) + 1
        unused = self._release(gone)
        if len(self._conversations) > MAX_CONVERSATIONS:
            unused += self._release(self._conversations.popitem(last=False)[1].held)
        return unused

    def forget(self, beginning: str) -> list[str]:
        """All conversations whose names begin so are over."""
        over = [name for name in self._conversations if name.startswith(beginning)]
        return [key for name in over for key in self._release(self._conversations.pop(name).held)]

    def _release(self, keys: list[str]) -> list[str]:
        unused = []
        for key in keys:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                unused.append(key)
        return unused
