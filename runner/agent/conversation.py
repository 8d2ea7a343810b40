"""What a session's entries add up to: the context that is sent, and where each turn stands. Pure.

The same :meth:`Conversation.apply` runs while a turn runs and when a journal is read again, so a
new sandbox stands exactly where the old one was.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from runner.agent import chat
from runner.agent.chat import Call
from runner.agent.journal import (
    Compacted,
    Entry,
    Header,
    ModelSaid,
    Steer,
    Steered,
    ToolSaid,
    TurnDropped,
    TurnEnded,
    UserSaid,
)
from runner.errors import PermanentError
from runner.model import Usage
from runner.wire.acp import StopReason

# Turns that can still be answered again; older ones only live in the journal.
MAX_TURNS = 64
BYTES_PER_TOKEN = 3
# Owner of the message that stands for all that was compacted.
_SUMMARY = ""


@dataclass(slots=True)
class TurnRecord:
    """One turn as far as the journal knows.

    ``users``: its user messages, the first being the prompt; ``texts``: step and text of each
    answer; ``pending``: calls without a result; ``answered``: the model has the last word.
    ``steers``: ids of what was steered into it; ``heard``: those of them that the model was told.
    """

    id: str
    users: list[bytes]
    texts: list[tuple[int, str]] = field(default_factory=list)
    steps: int = 0
    repeats: int = 0
    pending: list[Call] = field(default_factory=list)
    finish: str = ""
    answered: bool = False
    usage: Usage | None = None
    stop: StopReason | None = None
    steers: set[str] = field(default_factory=set)
    heard: list[str] = field(default_factory=list)


class Conversation:
    """The running sum of entries."""

    def __init__(self) -> None:
        self.turns: OrderedDict[str, TurnRecord] = OrderedDict()
        self.waiting: list[tuple[str, bytes]] = []
        """Steers, with their ids, that have not been said to the model yet."""
        self.current: TurnRecord | None = None
        self._context: list[tuple[str, bytes]] = []
        self._measured: int | None = None
        self._unmeasured = 0

    @property
    def messages(self) -> list[bytes]:
        """The context without the system message, as it is sent."""
        return [message for _, message in self._context]

    @property
    def unanswered(self) -> list[Call]:
        """Calls of the latest turn without a result."""
        return list(self.current.pending) if self.current is not None else []

    def tokens(self, overhead: int) -> int:
        """How full the context is: the provider's last count and an estimate of what came since.

        ``overhead``: bytes of system message and tools, which count until the provider has.
        """
        if self._measured is not None:
            return self._measured + self._unmeasured // BYTES_PER_TOKEN
        return (overhead + sum(len(m) for _, m in self._context)) // BYTES_PER_TOKEN

    def can_compact(self, turn: TurnRecord) -> bool:
        """Whether the context holds more than a summary and the turn's own user messages."""
        summary = bool(self._context) and self._context[0][0] == _SUMMARY
        return len(self._context) > len(turn.users) + summary

    def apply(self, entry: Entry) -> None:
        """Raises:
        PermanentError: ``journal_corrupt``: the entry belongs to a turn that never began.
        """
        match entry:
            case Header():
                pass
            case UserSaid(turn=id_, message=raw, again=again):
                turn = self._turn(id_) if again else self._begin(id_)
                turn.repeats += again
                self._user(turn, bytes(raw))
            case Steer(turn=id_, message=raw, id=steer):
                self.waiting.append((steer, bytes(raw)))
                if steer:
                    self._turn(id_).steers.add(steer)
            case Steered(turn=id_, count=count):
                turn = self._turn(id_)
                for steer, message in self.waiting[:count]:
                    self._user(turn, message)
                    if steer:
                        turn.heard.append(steer)
                del self.waiting[:count]
            case ModelSaid():
                self._model(self._turn(entry.turn), entry)
            case ToolSaid(turn=id_, call=call, message=raw):
                turn = self._turn(id_)
                turn.pending = [c for c in turn.pending if c.id != call]
                self._add(turn.id, bytes(raw))
            case TurnEnded(turn=id_, stop=stop):
                self._turn(id_).stop = stop
                self._forget_unheard()
            case TurnDropped(turn=id_):
                self.turns.pop(id_, None)
                self.current = None
                self.waiting.clear()
                self._context = [(owner, m) for owner, m in self._context if owner != id_]
                self._measured = None
            case Compacted(turn=id_, message=raw, usage=usage):
                turn = self._turn(id_)
                turn.usage = add_usage(turn.usage, usage)
                self._context = [(_SUMMARY, bytes(raw)), *((id_, m) for m in turn.users)]
                self._measured = None

    def knows(self, steer: str) -> bool:
        """A turn has been steered with this id, and may have ended since."""
        return any(steer in turn.steers for turn in self.turns.values())

    def _forget_unheard(self) -> None:
        """A named steer belongs to its turn: the client is told that it was not heard there."""
        self.waiting = [(id_, message) for id_, message in self.waiting if not id_]

    def _begin(self, id_: str) -> TurnRecord:
        self._forget_unheard()
        self.current = self.turns[id_] = TurnRecord(id_, [])
        self.turns.move_to_end(id_)
        if len(self.turns) > MAX_TURNS:
            self.turns.popitem(last=False)
        return self.current

    def _turn(self, id_: str) -> TurnRecord:
        if self.current is None or self.current.id != id_:
            raise PermanentError(
                f"the journal has an entry of the turn {id_[:80]!r}, which never began",
                hint="reset the group, or repair the journal by hand",
                code="journal_corrupt",
            )
        return self.current

    def _user(self, turn: TurnRecord, message: bytes) -> None:
        turn.users.append(message)
        turn.answered = False
        self._add(turn.id, message)

    def _model(self, turn: TurnRecord, entry: ModelSaid) -> None:
        turn.steps = entry.step
        turn.finish = entry.finish
        message = chat.decode_assistant(entry.message)
        turn.pending = list(message.tool_calls)
        turn.answered = not message.tool_calls
        if message.content:
            turn.texts.append((entry.step, message.content))
        if bytes(entry.message) != chat.NOTHING:
            self._add(turn.id, bytes(entry.message))
        turn.usage = add_usage(turn.usage, entry.usage)
        if entry.usage is not None and entry.usage.input_tokens is not None:
            self._measured = entry.usage.input_tokens + (entry.usage.output_tokens or 0)
            self._unmeasured = 0

    def _add(self, owner: str, message: bytes) -> None:
        self._context.append((owner, message))
        self._unmeasured += len(message)


def add_usage(a: Usage | None, b: Usage | None) -> Usage | None:
    """The sum; a figure is known when one side has it."""
    if a is None or b is None:
        return a or b
    return Usage(
        input_tokens=_add(a.input_tokens, b.input_tokens),
        cached_tokens=_add(a.cached_tokens, b.cached_tokens),
        output_tokens=_add(a.output_tokens, b.output_tokens),
        reasoning_tokens=_add(a.reasoning_tokens, b.reasoning_tokens),
    )


def _add(a: int | None, b: int | None) -> int | None:
    return a if b is None else b if a is None else a + b
