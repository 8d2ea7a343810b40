"""Searches the current folder: ``glob PATTERN`` or ``grep REGEX GLOB``. Run as a script.

Standard library only: it starts with ``-I -S`` in a few milliseconds. Links are not followed.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator

MAX_PATHS = 1_000
MAX_SEEN = 200_000
MAX_MATCHES = 200
MAX_LINE = 500
READ_LINE = 1 << 16
SKIP = {".git"}


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["glob", pattern]:
                return glob(pattern)
            case ["grep", pattern, wanted]:
                return grep(pattern, wanted)
    except re.error as e:
        say(f"the pattern is not a regular expression: {e}")
        return 1
    return 2


def glob(pattern: str) -> int:
    matches = translate(pattern).fullmatch
    found = sorted(path for path, _, _ in walk() if matches(path))
    for path in found[:MAX_PATHS]:
        say(path)
    if len(found) > MAX_PATHS:
        say(f"[{len(found) - MAX_PATHS} more left out]")
    if not found:
        say("(no files)")
    return 0


def grep(pattern: str, wanted: str) -> int:
    search = re.compile(pattern).search
    fits = translate(wanted).fullmatch if wanted else None
    count = 0
    for path, folder, name in walk():
        if fits is not None and not fits(path) and not ("/" not in wanted and fits(name)):
            continue
        for number, line in lines(folder, name):
            if search(line):
                count += 1
                if count > MAX_MATCHES:
                    say(f"[stopped after {MAX_MATCHES} matches]")
                    return 0
                say(f"{path}:{number}:{line[:MAX_LINE]}")
    if not count:
        say("(no matches)")
    return 0


def walk() -> Iterator[tuple[str, int, str]]:
    """``(path, descriptor of its folder, name)`` of each file below the current folder."""
    seen = 0
    for root, folders, files, fd in os.fwalk(".", follow_symlinks=False):
        folders[:] = sorted(f for f in folders if f not in SKIP)
        for name in sorted(files):
            seen += 1
            if seen > MAX_SEEN:
                say(f"[stopped after {MAX_SEEN} files: narrow the path]")
                return
            yield os.path.join(root, name)[2:], fd, name  # noqa: PTH118


def lines(folder: int, name: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file; of a binary or special one, none."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return
    with open(fd, "rb") as file:  # noqa: PTH123
        if not stat.S_ISREG(os.fstat(fd).st_mode) or b"\0" in file.peek(8192)[:8192]:
            return
        number = 0
        while line := file.readline(READ_LINE):
            number += 1
            yield number, line.decode("utf-8", "replace").rstrip("\r\n")


def translate(pattern: str) -> re.Pattern[str]:
    """A glob to a regular expression: ``**/`` any folders, ``*`` and ``?`` within a name."""
    out: list[str] = []
    i = 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            out.append("(?:[^/]+/)*")
            i += 3
        elif pattern.startswith("**", i):
            out.append(".*")
            i += 2
        elif pattern[i] == "*":
            out.append("[^/]*")
            i += 1
        elif pattern[i] == "?":
            out.append("[^/]")
            i += 1
        elif pattern[i] == "[" and (end := pattern.find("]", i + 2)) > 0:
            inner = pattern[i + 1 : end].replace("\\", "\\\\")
            out.append(f"[^{inner[1:]}]" if inner[0] == "!" else f"[{inner}]")
            i = end + 1
        else:
            out.append(re.escape(pattern[i]))
            i += 1
    return re.compile("".join(out), re.DOTALL)


def say(line: str) -> None:
    sys.stdout.buffer.write(line.encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
