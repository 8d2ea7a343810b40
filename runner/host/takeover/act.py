"""The taking over itself: what is there already stays, and everything is said.

Each group's files appear at once or not at all: they are copied beside their place and renamed.
Whoever runs it again goes on where it was.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.errors import ConfigError, NanokimiError, PermanentError, TemporaryError
from runner.host.takeover.source import MAX_CONFIG, Kind, Source, SourceGroup
from runner.host.takeover.tree import names, opened
from runner.host.takeover.workspace import (
    copy_sessions,
    fill,
    holds_something,
    left_behind,
    placed,
)
from runner.model import folder_of
from runner.oauth.private_files import create_private
from runner.oauth.store import parse_login
from runner.oauth.tokens import TokenSet
from runner.settings.layout import Layout
from runner.settings.load import load_settings, parse_settings, parse_toml
from runner.settings.nanokimi_import import GroupWish, convert
from runner.settings.schema import Settings
from runner.store import Store, groups, place_of
from runner.store.tool_calls import Connection

MAX_TOKEN_FILE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of the old installation: ``taken``, or why it was not."""

    what: str
    name: str
    taken: bool
    detail: str


@dataclass(slots=True)
class Report:
    """What an operator is told; in a dry run, what would be done."""

    kind: Kind
    source: Path
    items: list[Item] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def took(self, what: str, name: str, detail: str) -> None:
        self.items.append(Item(what, name, taken=True, detail=detail))

    def left(self, what: str, name: str, why: str) -> None:
        self.items.append(Item(what, name, taken=False, detail=why))


class TakeOver:
    """From ``source`` into the data directory of ``layout``, which no host may serve meanwhile.

    ``dry``: look and report; nothing is written.
    """

    def __init__(
        self, source: Source, layout: Layout, environ: Mapping[str, str], *, dry: bool
    ) -> None:
        self.report = Report(source.kind, source.root, notes=list(source.notes))
        self._source = source
        self._layout = layout
        self._environ = environ
        self._dry = dry

    async def run(self) -> Report:
        """Do it.

        Raises:
            ConfigError: the old config has to be corrected first; nothing was written.
            PermanentError, TemporaryError: something cannot be read or written. What was taken
                before is whole, and another run goes on.
        """
        try:
            if self._source.kind is Kind.OURS:
                self._check_store()
            settings = self._config()
            self._credentials(settings)
            wanted = [group for group in self._source.groups if self._is_free(group)]
            if wanted and not self._dry:
                await self._adopt(settings, wanted)  # first: files alone make no group
            for group in wanted:
                self._group(group)
        except OSError as e:
            raise _explained(e) from None
        return self.report

    async def _adopt(self, settings: Settings, wanted: Sequence[SourceGroup]) -> None:
        def work(c: Connection) -> None:
            for group in wanted:
                groups.adopt(c, group.id, group.session_id)

        store = await Store.open(place_of(self._layout, settings.store))
        try:
            await store.transact(work)
        finally:
            await store.close()

    def _check_store(self) -> None:
        """Its groups are in its database: one on a server cannot be copied like a directory."""
        name = self._source.root / "/".join(self._source.config)
        document = self._source.read(self._source.config, MAX_CONFIG)
        if document is None:
            return
        table = parse_toml(document, name)
        if parse_settings(table, self._environ, path=name).store.url:
            raise ConfigError(
                f"{self._source.root} keeps its groups in PostgreSQL: nothing has to be imported",
                hint=f"let [store] url of {self._layout.config} name the same database, and copy "
                "groups/, sessions/, files/, attachments/ and credentials/ (docs/operations.md, "
                "several hosts)",
            )
        for path in sorted(set(_secret_files(table))):
            parts = Path(path).parts
            if len(parts) != 2 or parts[0] != "credentials":
                self.report.left("key", path, "it is not in credentials/: see to it yourself")

    # -- config and credentials -----------------------------------------------------------------

    def _config(self) -> Settings:
        """The settings that hold afterwards."""
        config, source = self._layout.config, self._source
        name = "/".join(source.config)
        if os.path.lexists(config):
            self.report.left("config", name, f"{config} is there already, and stays as it is")
            return load_settings(self._layout, self._environ)
        document = source.read(source.config, MAX_CONFIG)
        if document is None:
            raise ConfigError(
                f"{source.root / name} is no readable file",
                hint="write a config with `nanokimi init` first, and import again",
            )
        made, keys = self._converted(document, source.root / name)
        taken = [path for path in keys if os.path.lexists(self._layout.root / path)]
        if taken:
            raise ConfigError(
                f"{self._layout.root / taken[0]} is there already",
                hint="move it away, and import again",
            )
        if not self._dry:
            self._layout.credentials.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path, key in keys.items():
                create_private(self._layout.root / path, key.encode() + b"\n")
            with config.open("xb") as file:
                file.write(made)
                file.flush()
                os.fsync(file.fileno())
        self.report.took("config", name, f"written to {config}")
        return parse_settings(parse_toml(made, config), self._environ, path=config)

    def _converted(self, document: bytes, name: Path) -> tuple[bytes, Mapping[str, str]]:
        if self._source.kind is Kind.OURS:
            parse_settings(parse_toml(document, name), self._environ, path=self._layout.config)
            return document, {}
        wishes = [GroupWish(g.id, g.trigger, g.admin) for g in self._source.groups if g.known]
        made = convert(document, name, self._layout.config, wishes)
        self.report.notes += made.notes
        return made.text.encode(), made.secrets

    def _credentials(self, settings: Settings) -> None:
        oauths = [p.oauth for p in settings.providers.values() if p.oauth is not None]
        tokens = {oauth.credential_file for oauth in oauths}
        for name in sorted(tokens):
            self._login(name)
        if self._source.kind is Kind.OURS:
            for name in self._files_of_keys() - tokens:
                self._key(name)

    def _login(self, name: str) -> None:
        """The newer one of the files that hold this login."""
        there = self._layout.credentials / name
        found: list[tuple[TokenSet, bytes]] = []
        for place in self._source.logins:
            content = self._source.read((*place, name), MAX_TOKEN_FILE)
            path = self._source.root / Path(*place, name)
            if content is None:
                continue
            try:
                found.append((parse_login(content, path), content))
            except PermanentError as e:
                self.report.left("login", name, e.message)
        if not found:
            self.report.left("login", name, "there is none; run `nanokimi login`")
        elif os.path.lexists(there):
            self.report.left("login", name, f"{there} is there already, and stays as it is")
        else:
            _, content = max(found, key=lambda login: login[0].expires_at)
            if not self._dry:
                create_private(there, content)
            self.report.took("login", name, "mode 0600; use it here only from now on")

    def _files_of_keys(self) -> set[str]:
        with opened(self._source.root, "credentials") as fd:
            found = names(fd)
        return {n for n in found if not n.startswith(".") and not n.endswith((".lock", ".json"))}

    def _key(self, name: str) -> None:
        there = self._layout.credentials / name
        content = self._source.read(("credentials", name), MAX_TOKEN_FILE)
        if content is None:
            self.report.left("key", name, "it is no file of at most 64 KiB")
        elif os.path.lexists(there):
            self.report.left("key", name, f"{there} is there already, and stays as it is")
        else:
            if not self._dry:
                create_private(there, content)
            self.report.took("key", name, "mode 0600")

    # -- groups ---------------------------------------------------------------------------------

    def _is_free(self, group: SourceGroup) -> bool:
        target = self._layout.workspace(folder_of(group.id))
        if holds_something(target):
            self.report.left("group", group.id, f"{target} holds files already")
            return False
        return True

    def _group(self, group: SourceGroup) -> None:
        folder = folder_of(group.id)
        target, sessions = self._layout.workspace(folder), self._layout.sessions(folder)
        detail = [f"folder {group.folder!r}"]
        # The memory first: once the workspace is in place, another run does not come here again.
        if self._source.kind is Kind.OURS and holds_something(sessions):
            detail.append("its memory stays behind: there is one already")
        elif self._source.kind is Kind.OURS:
            with placed(sessions, dry=self._dry) as fd:
                copied = copy_sessions(self._source, group, fd)
            detail += [f"memory: {copied.files} files", *left_behind(copied)]
        with placed(target, dry=self._dry) as fd:
            detail += fill(self._source, group, fd)
        self.report.took("group", group.id, "; ".join(detail))
        if not group.known:
            self.report.notes.append(
                f"nothing says which chat the folder {group.folder!r} belongs to: its group is "
                f"called the same; --group '{group.folder}=ID' gives it another id"
            )


def _secret_files(node: object) -> Iterator[str]:
    """What a config names as ``file:PATH``."""
    match node:
        case dict():
            for value in node.values():
                yield from _secret_files(value)
        case list():
            for value in node:
                yield from _secret_files(value)
        case str() if node.startswith("file:"):
            yield node.removeprefix("file:")


def _explained(e: OSError) -> NanokimiError:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return TemporaryError(
            "the disk is full", hint="free some space, and import again", code="disk_full"
        )
    return PermanentError(
        f"{e.filename or 'a file'}: {e.strerror}",
        hint="check owner and mode, and import again: what was taken is not taken twice",
        code="not_imported",
    )
