"""The lines that tests steer the demo model with, each beginning with ``!``::

!call NAME {json}                          a step with one tool call
!parallel [{"name": .., "arguments": ..}]  a step with several
!think TEXT      the reasoning of every step
!say TEXT        the answer; {last} is the last tool result
!slow SECONDS    pause before each chunk, at most 5
!chunks N        send the text in N pieces
!length          end with finish_reason "length"
!bytes N         an answer of N bytes
"""

from __future__ import annotations

import json
from dataclasses import replace

from runner.demo.script import Call, Script

MAX_PAUSE = 5.0
MAX_ANSWER = 16 * 1024 * 1024
_FILLER = "0123456789abcde "


def script_for_directives(text: str) -> Script | None:
    """The script that the ``!`` lines of a message ask for; ``None`` when it has none.

    A line that makes no sense becomes the answer, so that a broken test says what is wrong.
    """
    script: Script | None = None
    says: list[str] = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        try:
            step = _apply(script or Script(), word, rest.strip(), says)
        except (ValueError, KeyError, TypeError) as e:
            return Script(answer=f"I do not understand the line {line.strip()[:200]!r}: {e}")
        script = step or script
    return None if script is None else replace(script, answer="\n".join(says) or "Done.")


def _apply(script: Script, word: str, rest: str, says: list[str]) -> Script | None:
    match word:
        case "!call":
            name, _, arguments = rest.partition(" ")
            return replace(script, calls=(*script.calls, (Call(name, arguments.strip() or "{}"),)))
        case "!parallel":
            return replace(script, calls=(*script.calls, _parallel(rest)))
        case "!think":
            return replace(script, reasoning=rest)
        case "!say":
            says.append(rest)
            return script
        case "!slow":
            return replace(script, pause=min(max(float(rest), 0.0), MAX_PAUSE))
        case "!chunks":
            return replace(script, chunks=max(int(rest), 1))
        case "!length":
            return replace(script, finish="length")
        case "!bytes":
            size = min(max(int(rest), 1), MAX_ANSWER)
            says.append((_FILLER * (size // len(_FILLER) + 1))[:size])
            return replace(script, chunks=script.chunks or -(-size // 4096))
        case _:
            return None


def _parallel(text: str) -> tuple[Call, ...]:
    return tuple(
        Call(
            call["name"],
            call["arguments"]
            if isinstance(call.get("arguments"), str)
            else json.dumps(call.get("arguments", {}), ensure_ascii=False),
        )
        for call in json.loads(text)
    )
