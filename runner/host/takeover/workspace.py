"""A group's files in their new place, with what the older agent knew and said.

``target`` is the descriptor of the new directory; ``None`` in a dry run, which only looks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from runner.host.takeover.history import readable
from runner.host.takeover.source import Kind, Source, SourceGroup
from runner.host.takeover.tree import Copied, copy_tree, directories, names, opened, read_file

MAX_HISTORY = 64 << 20
MAX_CONVERSATIONS = 200
MAX_MEMORY = 1 << 20
_IMPORTED = "imported"
_SHARED = "global"
_TEMPORARY = ".taking-over-"
_MEMORY = "AGENTS.md"
_OLD_MEMORIES = ("KIMI.md", "CLAUDE.md")
_LOGS = frozenset({"logs"})
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MORE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_POINTER = """
# Earlier conversations

What this chat and its agent said before lies in `{folder}/`, newest last. Look there when
somebody speaks of the past.
"""


def fill(source: Source, group: SourceGroup, target: int | None) -> list[str]:
    """Copy what belongs into the workspace; what of it is worth telling.

    Raises:
        OSError: something cannot be read or written.
    """
    older = source.kind is Kind.OLDER
    with opened(source.root, *group.workspace) as old:
        copied = _tree(old, target, _LOGS if older else frozenset())
        there = frozenset(names(old)) - _LOGS
        memory = _memory(old)
    detail = [f"{copied.files} files, {copied.size} bytes", *left_behind(copied)]
    if not older:
        return detail
    if source.shared and _SHARED not in there:
        with opened(source.root, *source.shared) as old, _inner(target, _SHARED) as inner:
            detail += left_behind(_tree(old, inner, frozenset()))
        detail.append(f"{_SHARED}/ from {'/'.join(source.shared)}")
    told = _conversations(source, group)
    folder = next(n for n in _numbered(_IMPORTED) if n not in there)
    if told:
        with _inner(target, folder) as inner:
            for name, text in told if inner is not None else ():
                with os.fdopen(os.open(name, _NEW, 0o600, dir_fd=inner), "wb") as file:
                    file.write(text.encode("utf-8", "replace"))
        detail.append(f"{len(told)} conversations as text in {folder}/")
    if memory is not None:
        detail.append(f"{_MEMORY} from {memory[0]}")
    added = memory[1].rstrip() + b"\n" if memory is not None else b""
    added += _POINTER.format(folder=folder).encode() if told else b""
    if added and target is not None:
        with contextlib.suppress(IsADirectoryError):
            file_fd = os.open(_MEMORY, _MORE, 0o600, dir_fd=target)
            with os.fdopen(file_fd, "ab") as file:
                file.write(added)
    return detail


def copy_sessions(source: Source, group: SourceGroup, target: int | None) -> Copied:
    """The memory of one of our own agents. Raises: OSError."""
    with opened(source.root, *group.sessions) as old:
        return _tree(old, target, frozenset())


def left_behind(copied: Copied) -> Iterator[str]:
    """What was not copied, if there was any."""
    if copied.left_count:
        named = ", ".join(map(repr, copied.left))
        more = ", …" if copied.left_count > len(copied.left) else ""
        yield f"{copied.left_count} links or special files left behind ({named}{more})"


def holds_something(path: Path) -> bool:
    """Is there anything that must not be overwritten?"""
    try:
        return next(path.iterdir(), None) is not None
    except FileNotFoundError:
        return os.path.lexists(path)
    except NotADirectoryError:
        return True


@contextlib.contextmanager
def placed(target: Path, *, dry: bool) -> Iterator[int | None]:
    """A directory that is renamed to ``target`` when the block has ended well.

    Raises:
        OSError: it cannot be made, or the target holds something.
    """
    if dry:
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    above = os.open(target.parent, _DIR)
    try:
        for name in names(above):
            if name.startswith(_TEMPORARY):  # somebody was killed here
                shutil.rmtree(name, dir_fd=above)
        name = f"{_TEMPORARY}{secrets.token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=above)
        try:
            fd = os.open(name, _DIR, dir_fd=above)
            try:
                yield fd
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(name, target.name, src_dir_fd=above, dst_dir_fd=above)
            os.fsync(above)
        except BaseException:
            shutil.rmtree(name, ignore_errors=True, dir_fd=above)
            raise
    finally:
        os.close(above)


def _tree(old: int | None, target: int | None, without: frozenset[str]) -> Copied:
    return copy_tree(old, target, without=without) if old is not None else Copied()


def _memory(old: int | None) -> tuple[str, bytes] | None:
    """What the older agent knew by heart, unless the new one's file is there."""
    if _MEMORY in names(old):
        return None
    for name in _OLD_MEMORIES:
        if (content := read_file(old, name, MAX_MEMORY)) is not None:
            return name, content
    return None


def _conversations(source: Source, group: SourceGroup) -> list[tuple[str, str]]:
    """File names and texts, oldest first."""
    found: list[tuple[float, str, str]] = []
    for parts in _session_folders(source, group):
        with opened(source.root, *parts) as fd:
            content = read_file(fd, "context.jsonl", MAX_HISTORY)
            if fd is None or content is None:
                continue
            at = os.stat("context.jsonl", dir_fd=fd, follow_symlinks=False).st_mtime
        day = datetime.fromtimestamp(at, UTC).date().isoformat()
        if text := readable(content, f"A conversation that ended on {day}"):
            found.append((at, day, text))
    found = sorted(found)[-MAX_CONVERSATIONS:]
    return [(f"{n:03d}-{day}.md", text) for n, (_, day, text) in enumerate(found, 1)]


def _session_folders(source: Source, group: SourceGroup) -> Iterator[tuple[str, ...]]:
    """``.kimi/HASH/SESSION``, as the older system mounted it, or the same below ``sessions``."""
    for base in ((*group.sessions, ".kimi"), (*group.sessions, ".kimi", "sessions")):
        with opened(source.root, *base) as fd:
            outer = directories(fd)
        for one in outer:
            with opened(source.root, *base, one) as fd:
                inner = directories(fd)
            for two in inner:
                yield (*base, one, two)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


@contextlib.contextmanager
def _inner(target: int | None, name: str) -> Iterator[int | None]:
    """A new directory in the target; ``None`` in a dry run."""
    if target is None:
        yield None
        return
    os.mkdir(name, 0o700, dir_fd=target)
    fd = os.open(name, _DIR, dir_fd=target)
    try:
        yield fd
    finally:
        os.close(fd)
