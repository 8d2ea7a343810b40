"""The half of the settings that an agent reads inside its sandbox. Standard library only.

The host writes this file (see ``projection``) with the keys of kimi-cli, so a foreign engine can
read it too; what is checked here is checked again because a sandbox may be started by hand.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, LoginRequiredError


@dataclass(frozen=True, slots=True)
class LoopControl:
    """Limits of one turn; tokens for ``reserved_context_size``."""

    max_steps_per_turn: int = 100
    max_retries_per_step: int = 3
    max_ralph_iterations: int = 0
    reserved_context_size: int = 50_000


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """One model at one provider, and how far a turn may go.

    ``model_socket`` is the Unix socket that leads to the model, a file name inside the sandbox's
    run directory; empty when ``base_url`` is called directly. ``credential_file`` is the projected
    token file. ``tools_socket`` leads to the host's tools, with the token in ``tools_credential``;
    empty when there are none.
    """

    alias: str
    model: str
    max_context_size: int
    thinking: bool
    capabilities: frozenset[str]
    base_url: str
    credential_file: Path
    custom_headers: dict[str, str] = field(default_factory=dict)
    loop: LoopControl = field(default_factory=LoopControl)
    model_socket: str = ""
    tools_socket: str = ""
    tools_credential: Path = Path()


def load_container_settings(home: Path) -> ContainerSettings:
    """Read ``home/.kimi/config.toml``.

    Raises:
        ConfigError: the file is missing, not TOML, or does not name a model and a provider.
    """
    path = home / ".kimi" / "config.toml"
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is not there",
            hint="mount the projected config directory at .kimi/config, read-only",
        ) from None
    except (OSError, ValueError, RecursionError) as e:  # not UTF-8 and not TOML are ValueErrors
        raise ConfigError(f"{path} cannot be read: {e}", hint="run `nanokimi doctor`") from None
    return parse_container_settings(raw, home)


def parse_container_settings(raw: dict[str, Any], home: Path) -> ContainerSettings:
    """See :func:`load_container_settings`; pure."""
    alias = _text(raw, "default_model", "")
    model = _named(raw, "models", alias)
    provider_name = _text(model, "provider", "")
    provider = _named(raw, "providers", provider_name)
    key = _text(_table(provider, "oauth"), "key", "").rsplit("/", 1)[-1]
    if not key:
        raise ConfigError(
            f'provider "{provider_name}" names no credential',
            hint='set oauth = {storage = "file", key = "oauth/kimi-code"}',
        )
    capabilities = model.get("capabilities", [])
    headers = _table(provider, "custom_headers")
    ours = _table(raw, "nanokimi")
    credentials = home / ".kimi" / "credentials"
    return ContainerSettings(
        alias=alias,
        model=_text(model, "model", alias),
        max_context_size=_number(model, "max_context_size", 200_000),
        thinking=raw.get("default_thinking", False) is True,
        capabilities=frozenset(map(str, capabilities if isinstance(capabilities, list) else [])),
        base_url=_text(provider, "base_url", "").rstrip("/"),
        credential_file=credentials / f"{key}.json",
        custom_headers={name: str(value) for name, value in headers.items()},
        loop=_loop(_table(raw, "loop_control")),
        model_socket=_text(ours, "model_socket", ""),
        tools_socket=_text(ours, "tools_socket", ""),
        tools_credential=credentials / f"{_text(ours, 'tools_key', key).rsplit('/', 1)[-1]}.json",
    )


def _loop(table: dict[str, Any]) -> LoopControl:
    defaults = LoopControl()
    retries = _number(table, "max_retries_per_step", defaults.max_retries_per_step)
    return LoopControl(
        max_steps_per_turn=_number(table, "max_steps_per_turn", defaults.max_steps_per_turn),
        max_retries_per_step=max(0, _number(table, "max_attempts_per_step", retries + 1) - 1),
        max_ralph_iterations=_number(table, "max_ralph_iterations", defaults.max_ralph_iterations),
        reserved_context_size=_number(
            table, "reserved_context_size", defaults.reserved_context_size
        ),
    )


def read_token(path: Path) -> str:
    """The access token of a projected credential file; read again for each request.

    Raises:
        LoginRequiredError: no file, not JSON, or no token in it.
    """
    try:
        token = json.loads(path.read_text("utf-8")).get("access_token")
    except (OSError, ValueError, AttributeError) as e:
        raise LoginRequiredError(
            f"no usable credential at {path}: {e}", hint="run `nanokimi login` on the host"
        ) from None
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise LoginRequiredError(
            f"no usable access token in {path}", hint="run `nanokimi login` on the host"
        )
    return token


def _text(table: dict[str, Any], key: str, default: str) -> str:
    value = table.get(key, default)
    return value if isinstance(value, str) else default


def _number(table: dict[str, Any], key: str, default: int) -> int:
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{key} is not a whole number", hint="write digits, without quotes")
    return value


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _named(raw: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    tables = _table(raw, kind)
    table = tables.get(name)
    if not isinstance(table, dict):
        known = ", ".join(sorted(tables)) or "none"
        raise ConfigError(
            f'[{kind}."{name}"] is not in the config (there: {known})',
            hint="add the table, or correct the name that refers to it",
        )
    return table
