"""The few plain sentences the demo model understands; anything else it repeats."""

from __future__ import annotations

import json
import re

from runner.demo.directives import script_for_directives
from runner.demo.script import Call, Script
from runner.demo.talk import Talk, outside_frames

_SUMMARY = re.compile(
    r"\bsummari[sz]e\b|\b(?:write|give|make|produce|provide|create)\b[^.]{0,80}\bsummary\b",
    re.IGNORECASE,
)
_WRITE = re.compile(
    r"\bwrite\s+(?P<q>['\"])(?P<text>.+?)(?P=q)\s+to\s+(?P<path>\S+)\s+and\s+read\s+it\s+back",
    re.IGNORECASE | re.DOTALL,
)
_REMEMBER = re.compile(r"\bremember\s+the\s+word\s+['\"]?(?P<word>[\w-]+)", re.IGNORECASE)
_WHICH_WORD = re.compile(r"\b(?:which|what)\s+word\b", re.IGNORECASE)
_LIST = re.compile(r"\blist\s+(?:the\s+|all\s+|your\s+)?files\b|\bwhich\s+files\b", re.IGNORECASE)
_READ = re.compile(r"^\s*(?:please\s+)?read\s+(?P<path>\S+?)[.!]?\s*$", re.IGNORECASE)
_NUMBERED = re.compile(r"^\s*\d+\t")


def script_for_summary(talk: Talk) -> Script | None:
    """A summary, when an engine that compacts asks for one in its own words.

    Frames in its request are quotes: what they say is not done. It keeps each word to remember.
    """
    own_words = outside_frames(talk.prompt)
    if not _SUMMARY.search(own_words) or script_for_directives(own_words):
        return None
    told = dict.fromkeys(_words((*talk.earlier, talk.chat, talk.prompt)))
    kept = "".join(f" The user said: remember the word {word}." for word in told)
    return Script(answer=f"Summary of {len(talk.earlier)} earlier messages.{kept}")


def script_for_sentence(talk: Talk) -> Script:
    """What to do for the newest message; always something."""
    chat = talk.chat
    last = _bare(talk.results[-1]) if talk.results else ""
    if found := _WRITE.search(chat):
        path = found["path"]
        return Script(
            calls=(
                (_call("write", path=path, content=found["text"]),),
                (_call("read", path=path),),
            ),
            answer=f"{path} says: {last}",
        )
    if _WHICH_WORD.search(chat):
        words = _words((*talk.earlier, chat))
        return Script(answer=f"The word was {words[-1]}." if words else "I was not told a word.")
    if _REMEMBER.search(chat):
        return Script(answer="I will remember it.")
    if _LIST.search(chat):
        return Script(
            calls=((_call("glob", pattern="**/*"),),),
            answer=f"These files are here:\n{last}" if last else "There are no files here.",
        )
    if found := _READ.search(chat):
        return Script(
            calls=((_call("read", path=found["path"]),),), answer=f"{found['path']} says: {last}"
        )
    return Script(answer=f"You said: {chat.strip()}")


def _call(name: str, **arguments: str) -> Call:
    return Call(name, json.dumps(arguments, ensure_ascii=False))


def _words(texts: tuple[str, ...]) -> list[str]:
    return [found["word"] for text in texts for found in _REMEMBER.finditer(text)]


def _bare(result: str) -> str:
    """A tool's result without outer blanks and without the line numbers some read tools add."""
    lines = result.splitlines()
    if lines and all(_NUMBERED.match(line) for line in lines):
        lines = [_NUMBERED.sub("", line) for line in lines]
    return "\n".join(lines).strip()
