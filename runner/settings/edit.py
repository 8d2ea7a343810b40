"""Changes to ``[groups."ID"]`` in the text of a ``config.toml``; all else stays as it was. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from runner.errors import ConfigError
from runner.settings.load import parse_settings, parse_toml
from runner.settings.schema import Settings
from runner.settings.tables import GroupTable

_TABLES = ("limits", "roles", "tools")


def set_of_group(
    text: str, group: str, pair: str, environ: Mapping[str, str], path: Path
) -> tuple[str, Settings]:
    """The text with one ``KEY=VALUE`` set, and the settings that it makes.

    ``KEY`` is one of ``[groups."ID"]``, or one in ``limits``, ``roles`` or ``tools``:
    ``limits.memory``. ``VALUE`` is text, or as TOML writes it: whichever the key takes.

    Raises:
        ConfigError: there is no such key, or the config would not be valid.
    """
    key, equals, value = pair.partition("=")
    where = _where(key.strip())
    if not equals:
        raise ConfigError(f"{pair!r} is not KEY=VALUE", hint=f"write '{key}=VALUE'")
    refused: ConfigError | None = None
    for meant in _meanings(value.strip()):
        made = tomlkit.parse(text)
        holder = _table(_table(made, "groups", super_table=True), group)
        for part in where[:-1]:
            holder = _table(holder, part, inline=True)
        holder[where[-1]] = meant
        try:
            changed = tomlkit.dumps(made)
            return changed, parse_settings(parse_toml(changed.encode(), path), environ, path=path)
        except ConfigError as e:
            refused = refused or e
    assert refused is not None
    raise refused


def unset_of_group(
    text: str, group: str, key: str, environ: Mapping[str, str], path: Path
) -> tuple[str, Settings]:
    """The text without a key of the group, so that it is as everywhere.

    Raises:
        ConfigError: as :func:`set_of_group`.
    """
    where = _where(key.strip())
    made = tomlkit.parse(text)
    above: Any = {}
    holder: Any = made
    for part in ("groups", group, *where[:-1]):
        above, holder = holder, holder.get(part, {})
    if holder.pop(where[-1], None) is not None and where[:-1] and not holder:
        above.pop(where[-2])  # no empty limits, roles or tools is left behind
    changed = tomlkit.dumps(made)
    return changed, parse_settings(parse_toml(changed.encode(), path), environ, path=path)


def _where(key: str) -> tuple[str, ...]:
    first, dot, rest = key.partition(".")
    if first not in GroupTable.model_fields or bool(dot) != bool(rest):
        near = difflib.get_close_matches(first, GroupTable.model_fields, 1, 0.5)
        known = (
            f'did you mean "{near[0]}"?' if near else f"use {', '.join(GroupTable.model_fields)}"
        )
        raise ConfigError(f"a group has no setting {key[:80]!r}", hint=known)
    if bool(dot) != (first in _TABLES):
        hint = f"write {first}.NAME=VALUE" if first in _TABLES else f"write {first}=VALUE"
        raise ConfigError(f"{key[:80]!r} is no single setting", hint=hint)
    return (first, rest) if dot else (first,)


def _meanings(value: str) -> tuple[Any, ...]:
    """As TOML if it is, then as text."""
    try:
        return tomlkit.value(value), value
    except (TOMLKitError, ValueError):
        return (value,)


def _table(
    holder: MutableMapping[str, Any], key: str, *, super_table: bool = False, inline: bool = False
) -> MutableMapping[str, Any]:
    found = holder.get(key)
    if not isinstance(found, MutableMapping):
        found = tomlkit.inline_table() if inline else tomlkit.table(is_super_table=super_table)
        holder[key] = found
        found = holder[key]
    made: MutableMapping[str, Any] = found
    return made
