"""The ``config.toml`` of a NanoKimi installation as one of ours, with its comments. Pure.

It lay among the credentials, held keys as they are, and named models that are gone by now. Groups
had their trigger and rights in another place: they become ``[groups."ID"]`` here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import tomlkit
from pydantic import ValidationError

from runner.settings import catalog
from runner.settings.catalog import KIMI_CODE_BASE
from runner.settings.load import parse_settings, parse_toml
from runner.settings.problem import Where, dotted
from runner.settings.schema import Settings

_MOST_UNKNOWN = 200
_HEAD = "# Taken over by `nanokimi import nanokimi`. docs/configuration.md explains every key.\n"

Table = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True)
class GroupWish:
    """What the older system knew of a group: ``trigger`` empty answers everything, ``None`` is as
    everywhere.
    """

    id: str
    trigger: str | None = None
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Imported:
    """``secrets`` by path below the data directory; ``notes`` are sentences for the operator."""

    text: str
    secrets: Mapping[str, str] = field(repr=False)
    notes: tuple[str, ...]


def convert(document: bytes, source: Path, config: Path, groups: Sequence[GroupWish]) -> Imported:
    """The config that would be written to ``config``; ``source`` is for messages.

    Raises:
        ConfigError: it is not TOML, or says something that has to be corrected there first.
    """
    parse_toml(document, source)
    made = tomlkit.parse(document.decode())
    notes = [
        *_without_unknown(made, config.parent),
        *_with_current_models(made),
        *_with_groups(made, groups),
    ]
    secrets = dict(_without_keys(made))
    text = _HEAD + tomlkit.dumps(made)
    # The keys are not in their files yet, and nothing here looks into those.
    parse_settings(parse_toml(text.encode(), source), {}, path=config)
    notes += [f"the key of {path} is now in a private file" for path in secrets]
    return Imported(text, secrets, tuple(notes))


def _without_unknown(made: tomlkit.TOMLDocument, base: Path) -> Iterator[str]:
    """Keys of the older agent that nothing here has: a strict config would refuse them."""
    for where in _unknown(made.unwrap(), base)[:_MOST_UNKNOWN]:
        holder: Any = made
        for part in where[:-1]:
            holder = holder[part]
        del holder[where[-1]]
        yield f"{dotted(where)} has no counterpart and was left out"


def _unknown(raw: dict[str, Any], base: Path) -> list[Where]:
    try:
        Settings.model_validate(raw, context={"base": base})
    except ValidationError as e:
        return [p["loc"] for p in e.errors() if p["type"] == "extra_forbidden"]
    return []


def _with_current_models(made: Table) -> Iterator[str]:
    """A model that is gone has no answer any more, so its successor takes its place."""
    providers = _table(made, "providers")
    for alias, model in _tables(made, "models"):
        provider = _table(providers, str(model.get("provider", "")))
        # A login is one of Kimi Code, whatever host stands before it.
        base = KIMI_CODE_BASE if provider.get("oauth") else str(provider.get("base_url", ""))
        asked = str(model.get("model", ""))
        if found := catalog.gone(asked, base):
            happened, successor = found
            model["model"] = successor
            yield (
                f'warning: models."{alias}" asked for "{asked}", which {happened}; '
                f'it asks for its successor "{successor}" now'
            )


def _with_groups(made: Table, wishes: Sequence[GroupWish]) -> Iterator[str]:
    groups = made.setdefault("groups", tomlkit.table(is_super_table=True)) if wishes else {}
    for wish in wishes:
        own = groups.setdefault(wish.id, tomlkit.table())
        if wish.trigger is not None:
            own.setdefault("trigger", wish.trigger)
        if wish.admin:
            own.setdefault("admin", True)
            yield f'groups."{wish.id}" may manage the others (admin = true), as before'


def _without_keys(made: Table) -> Iterator[tuple[str, str]]:
    """Keys leave the text: each becomes a file below ``credentials/``."""
    for kind in ("providers", "services"):
        for name, table in _tables(made, kind):
            key = table.get("api_key")
            if isinstance(key, str) and key.strip() and not key.startswith(("env:", "file:")):
                slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] or "key"
                path = f"credentials/{kind}-{slug}.key"
                table["api_key"] = f"file:{path}"
                yield path, str(key)


def _table(holder: Table, key: str) -> Table:
    value = holder.get(key)
    return cast("Table", value) if isinstance(value, dict) else {}


def _tables(holder: Table, key: str) -> Iterator[tuple[str, Table]]:
    for name, table in _table(holder, key).items():
        if isinstance(table, dict):
            yield str(name), cast("Table", table)
