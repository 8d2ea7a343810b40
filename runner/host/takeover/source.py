"""What lies in the directory that was named: which system it is, and what it holds."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, ConflictError, PermanentError
from runner.host.lock import serving
from runner.host.people import check_group_id
from runner.host.takeover.tree import copy_file, directories, opened, read_file
from runner.settings.layout import Layout
from runner.store.foreign import ForeignGroup, read_ours, read_predecessor

MAX_CONFIG = 1 << 20
_MAX_REGISTRY = 16 << 20
_MAIN = "main"
_SHARED = "global"
Parts = tuple[str, ...]


class Kind(StrEnum):
    """Whose directory it is."""

    OLDER = "NanoKimi"
    OURS = "nanokimi"


@dataclass(frozen=True, slots=True)
class SourceGroup:
    """One group: ``workspace`` and ``sessions`` are directories below the source's root.

    ``known``: its id was found, and is not only the name of its folder.
    """

    id: str
    folder: str
    workspace: Parts
    sessions: Parts
    known: bool
    trigger: str | None = None
    admin: bool = False
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """An installation. ``logins`` are directories that may hold tokens, the likelier one first."""

    root: Path
    kind: Kind
    config: Parts
    logins: tuple[Parts, ...]
    groups: tuple[SourceGroup, ...]
    shared: Parts = ()
    notes: tuple[str, ...] = field(default=())

    def read(self, parts: Parts, limit: int) -> bytes | None:
        """A file below the root."""
        with opened(self.root, *parts[:-1]) as fd:
            return read_file(fd, parts[-1], limit)


def find(directory: Path, names: Mapping[str, str]) -> Source:
    """Look at a directory.

    Args:
        names: ids of groups by the names of their folders, as a person gave them.

    Raises:
        ConfigError: it is no installation, or the names do not fit.
        ConflictError: a host serves it.
    """
    for root in (directory, directory / "data"):
        if _has(root, ("config.toml",)) and (_has(root, ("nanokimi.db",)) or _is_ours(root)):
            return _ours(root, names)
    if _has(directory, ("data", "credentials", "config.toml")) or _is_dir(
        directory, ("data", "sessions")
    ):
        return _older(directory, ("data",), names)
    if _has(directory, ("credentials", "config.toml")):
        if directory.name == "data" and _is_dir(directory.parent, ("groups",)):
            return _older(directory.parent, ("data",), names)
        return _older(directory, (), names)
    raise ConfigError(
        f"{directory} is no installation that is known",
        hint="name the directory that holds data/ and groups/, or a data directory of nanokimi",
    )


def _ours(root: Path, names: Mapping[str, str]) -> Source:
    host = serving(Layout(root).host_lock)
    if host is not None:
        raise ConflictError(
            f"a nanokimi (pid {host.pid}) serves {root}",
            hint="end it first",
            code="already_serving",
        )
    notes: list[str] = []
    told: list[ForeignGroup] = []
    try:
        with _copy_of(root, ("nanokimi.db",)) as copy:
            told = read_ours(copy) if copy else []
    except PermanentError as e:
        notes.append(f"nanokimi.db: {e.message}; {e.hint}")
    if not told:
        notes.append("groups are known by the names of their folders only: use --group FOLDER=ID")
    groups = _groups(root, Kind.OURS, ((), ()), told, names)
    notes.append("messages, tasks, usage and roles stay in the old nanokimi.db")
    return Source(root, Kind.OURS, ("config.toml",), (("credentials",),), groups, (), tuple(notes))


def _older(root: Path, data: Parts, names: Mapping[str, str]) -> Source:
    notes: list[str] = []
    told = [*_registry(root, data)]
    try:
        with _copy_of(root, ("store", "messages.db")) as copy:
            registered, tasks = read_predecessor(copy) if copy else ([], 0)
    except PermanentError as e:
        registered, tasks = [], 0
        notes.append(f"store/messages.db: {e.message}; {e.hint}")
    there = {group.folder for group in registered}
    told = [*registered, *(group for group in told if group.folder not in there)]
    if tasks:
        notes.append(f"{tasks} scheduled tasks stay behind: `nanokimi tasks add` makes new ones")
    if _has(root, (".env",)):
        notes.append(".env stays behind: a key in it goes into config.toml as api_key")
    if _has(root, ("store", "messages.db")):
        notes.append("messages in store/messages.db stay behind")
    shared = ("groups", _SHARED)
    return Source(
        root,
        Kind.OLDER,
        (*data, "credentials", "config.toml"),
        ((*data, "oauth-token"), (*data, "credentials")),
        _groups(root, Kind.OLDER, ((), data), told, names),
        shared if _is_dir(root, shared) else (),
        tuple(notes),
    )


def _groups(
    root: Path,
    kind: Kind,
    places: tuple[Parts, Parts],
    told: list[ForeignGroup],
    names: Mapping[str, str],
) -> tuple[SourceGroup, ...]:
    """Every folder that holds files or sessions of a group."""
    above_groups, above_sessions = places
    folders: set[str] = set()
    for parts in ((*above_groups, "groups"), (*above_sessions, "sessions")):
        with opened(root, *parts) as fd:
            folders.update(directories(fd))
    if kind is Kind.OLDER:
        folders.discard(_SHARED)
    if strange := names.keys() - folders:
        raise ConfigError(
            f"there is no group folder {sorted(strange)[0]!r} in {root}",
            hint=f"there are {', '.join(map(repr, sorted(folders)[:10])) or 'none'}",
        )
    by_folder = {group.folder: group for group in told}
    found = []
    for folder in sorted(folders):
        known = by_folder.get(folder) or ForeignGroup(folder, folder)
        group_id = names.get(folder, known.id)
        main = kind is Kind.OLDER and folder == _MAIN  # it managed the others, without a trigger
        with contextlib.suppress(PermanentError):
            check_group_id(group_id)
            found.append(
                SourceGroup(
                    group_id,
                    folder,
                    (*above_groups, "groups", folder),
                    (*above_sessions, "sessions", folder),
                    known=folder in by_folder or folder in names,
                    trigger="" if main else known.trigger,
                    admin=main,
                    session_id=known.session_id,
                )
            )
    ids = [group.id for group in found]
    if twice := {i for i in ids if ids.count(i) > 1}:
        raise ConfigError(
            f"two folders would be the group {sorted(twice)[0]!r}",
            hint="give each its own id with --group FOLDER=ID",
        )
    return tuple(found)


def _registry(root: Path, data: Parts) -> Iterator[ForeignGroup]:
    """``registered_groups.json``: what the older system kept before it had a database for it."""
    for name in ("registered_groups.json", "registered_groups.json.migrated"):
        with opened(root, *data) as fd:
            content = read_file(fd, name, _MAX_REGISTRY)
        try:
            told: Any = json.loads(content or b"{}")
        except (ValueError, RecursionError):
            continue
        for jid, group in told.items() if isinstance(told, dict) else ():
            if isinstance(group, dict) and isinstance(group.get("folder"), str):
                trigger = group.get("trigger")
                asked = trigger if isinstance(trigger, str) else None
                wants = group.get("requiresTrigger") is not False
                yield ForeignGroup(jid, group["folder"], trigger=asked if wants else "")


@contextlib.contextmanager
def _copy_of(root: Path, parts: Parts) -> Iterator[Path | None]:
    """A copy of a SQLite file with its log, so that reading changes nothing over there."""
    with opened(root, *parts[:-1]) as fd, tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy.db"
        for suffix in ("", "-wal"):
            copy_file(fd, parts[-1] + suffix, copy.with_name(copy.name + suffix))
        yield copy if copy.exists() else None


def _is_ours(root: Path) -> bool:
    return _is_dir(root, ("groups",)) and not _has(root, ("credentials", "config.toml"))


def _has(root: Path, parts: Parts) -> bool:
    return (root / Path(*parts)).is_file()


def _is_dir(root: Path, parts: Parts) -> bool:
    with opened(root, *parts) as fd:
        return fd is not None
