"""What the demo model is going to do in one turn, and its single steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "tool_calls", "length"]


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; ``arguments`` is the JSON text exactly as it is sent."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Script:
    """A whole turn: tool steps in order, then the answer, where ``{last}`` is the last result.

    ``pause`` (seconds) goes before each chunk of the stream; ``chunks`` is the number of pieces
    the text is sent in, 0 for word by word.
    """

    calls: tuple[tuple[Call, ...], ...] = ()
    answer: str = ""
    reasoning: str = ""
    finish: Finish = "stop"
    pause: float = 0.0
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One answer of the model: a text, or tool calls."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    finish: Finish = "stop"
    pause: float = 0.0
    chunks: int = 0
