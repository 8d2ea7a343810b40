"""Cuts a long text into messages that a chat takes. Pure.

It cuts between paragraphs, where there is no room for that between lines, then sentences, then
words, and inside a word only when the word alone is too long. A code block that has to be cut is
closed at the end of one part and opened again, with its language, at the start of the next.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_FENCE = re.compile(r"([ \t]*)(`{3,}(?=[^`]*$)|~{3,})[^\n]*")
_SENTENCE = re.compile(r"(?:[.!?…]['\")\]]*(?=\s)|[。！？])")  # noqa: RUF001  they end Chinese ones
_BLANK = re.compile(r"\s*(?:\n|\Z)")
_JOINER = "\u200d"


class _Rank(IntEnum):
    """How good a place to cut is, the best one first."""

    PARAGRAPH = 0
    LINE = 1
    CODE_LINE = 2
    SENTENCE = 3
    WORD = 4
    CHARACTER = 5


@dataclass(frozen=True, slots=True)
class _Block:
    """A code block: what opens it, and what closes it."""

    opening: str
    closing: str


@dataclass(frozen=True, slots=True)
class _Line:
    """``block`` is open behind it; a ``marker`` is a line that opens or closes one."""

    start: int
    end: int
    block: _Block | None
    marker: bool


@dataclass(frozen=True, slots=True)
class _Cut:
    at: int
    rank: _Rank
    block: _Block | None


def split(text: str, limit: int) -> list[str]:
    """The parts of ``text``, each of 1 to ``limit`` characters (Unicode code points).

    White space at a cut goes, no word does. Blank text has no parts.
    """
    if limit < 1:
        raise ValueError(f"a limit of {limit}")
    if len(text) <= limit:
        return [text] if text.strip() else []
    text = text.rstrip()
    lines = list(_lines(text, limit))
    parts: list[str] = []
    at, first, block = _skip_blank(text, 0), 0, None
    while at < len(text):
        opened = f"{block.opening}\n" if block else ""
        if len(opened) + len(text) - at <= limit:
            parts.append(opened + text[at:])
            break
        while lines[first].end < at:
            first += 1
        cut = _best(text, lines, first, at, limit - len(opened))
        closed = f"\n{cut.block.closing}" if cut.block else ""
        if said := opened + (text[at : cut.at] + closed).rstrip():
            parts.append(said)
        at, block = _after(text, lines, first, cut)
    return parts


def _lines(text: str, limit: int) -> Iterator[_Line]:
    start, block = 0, None
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        marker = False
        if found := _FENCE.fullmatch(text, start, end):
            fence = found[2]
            if block is None:
                new = _Block(found[0].rstrip(), found[1] + fence)
                # One that would fill half of a part by itself is text like any other.
                if len(new.opening) + len(new.closing) + 2 <= limit // 2:
                    block, marker = new, True
            elif found[0].strip() == fence and fence.startswith(block.closing.strip()):
                block, marker = None, True
        yield _Line(start, end, block, marker)
        start = end + 1


def _best(text: str, lines: list[_Line], first: int, at: int, room: int) -> _Cut:
    """The last of the best places to cut behind ``at`` so that ``room`` characters are enough."""
    best: _Cut | None = None
    number = first
    for number in range(first, len(lines)):
        line = lines[number]
        if line.start >= at + room:
            break
        closing = len(line.block.closing) + 1 if line.block else 0
        if not at < line.end <= at + room - closing:
            continue
        if line.block is None:
            between = not text[line.start : line.end].strip() or _is_blank(text, lines, number + 1)
            rank = _Rank.PARAGRAPH if between else _Rank.LINE
        elif line.marker:
            continue  # nothing of the block would be in this part
        else:
            rank = _Rank.CODE_LINE
        if best is None or rank <= best.rank:
            best = _Cut(line.end, rank, line.block)
    if best is not None and text[at : best.at].strip():
        return best
    return _inside(text, _unfinished(lines, first, at, room), at, room)


def _unfinished(lines: list[_Line], first: int, at: int, room: int) -> _Line:
    """The line that does not fit: the last that begins within the room, and is no marker."""
    found = lines[first]
    for line in lines[first:]:
        closing = len(line.block.closing) + 1 if line.block else 0
        if line.start >= at + room - closing:
            break
        if not line.marker:
            found = line
    return found


def _inside(text: str, line: _Line, at: int, room: int) -> _Cut:
    closing = len(line.block.closing) + 1 if line.block else 0
    begin, end = max(line.start, at), at + room - closing
    if line.block is None:
        ends = [m.end() for m in _SENTENCE.finditer(text, begin, end + 1) if m.end() <= end]
        if ends and ends[-1] - begin >= room // 2:  # else it is rather the number of a list
            return _Cut(ends[-1], _Rank.SENTENCE, None)
    for place in range(min(end, line.end), begin, -1):
        if place < len(text) and text[place].isspace() and text[begin:place].strip():
            return _Cut(place, _Rank.WORD, line.block)
    if line.block is None and text[begin : begin + 1].isspace():
        return _Cut(begin + 1, _Rank.WORD, None)  # a word may fit without its indentation
    for place in range(min(end, line.end), begin, -1):
        if not _joined(text, begin, place):
            return _Cut(place, _Rank.CHARACTER, line.block)
    return _Cut(max(min(end, line.end), at + 1), _Rank.CHARACTER, line.block)


def _after(text: str, lines: list[_Line], first: int, cut: _Cut) -> tuple[int, _Block | None]:
    """Where the next part begins, and in which block."""
    if cut.block is None:
        at = cut.at
        if cut.rank > _Rank.CODE_LINE:
            while at < len(text) and text[at].isspace() and text[at] != "\n":
                at += 1
        return _skip_blank(text, at), None
    if text[cut.at : cut.at + 1] != "\n":
        return cut.at, cut.block
    for line in lines[first:]:
        if line.start == cut.at + 1:
            if line.marker:  # the block is closed already
                return min(line.end + 1, len(text)), None
            break
    return cut.at + 1, cut.block


def _skip_blank(text: str, at: int) -> int:
    """Past blank lines, but not into the indentation of the next one that says something."""
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _is_blank(text: str, lines: list[_Line], number: int) -> bool:
    return number < len(lines) and not text[lines[number].start : lines[number].end].strip()


def _joined(text: str, begin: int, place: int) -> bool:
    """Would a cut at ``place`` take apart what is read as one character? ``begin`` starts one."""
    if not begin < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if unicodedata.category(after)[0] == "M" or _JOINER in (before, after):
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff":  # skin tones
        return True
    if "\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff":
        return True
    return _is_flag(after) and _flags_before(text, begin, place) % 2 == 1


def _is_flag(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _flags_before(text: str, begin: int, place: int) -> int:
    count = 0
    while place - count > begin and _is_flag(text[place - count - 1]):
        count += 1
    return count
