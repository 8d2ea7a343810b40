"""From the file and the environment to :class:`Settings`, or to one error that says every fix."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from runner.errors import ConfigError
from runner.settings import mounts, rules
from runner.settings.environment import overlay
from runner.settings.explain import explain
from runner.settings.layout import Layout
from runner.settings.problem import Problem, Where, to_error
from runner.settings.schema import Settings

MAX_BYTES = 1024 * 1024


def load_settings(where: Layout | Path, environ: Mapping[str, str]) -> Settings:
    """Read, overlay, validate and judge a config. Order: environment, file, default.

    Args:
        where: a data directory (as :class:`Layout` or path), or the path of a config file, which
            then lies in its data directory.
        environ: usually ``os.environ``.

    Raises:
        ConfigError: the file is missing, in the wrong place, not TOML, or says something wrong.
            Message and hint name the key and the fix; up to ten mistakes are listed.
    """
    layout, path = _place(where)
    return parse_settings(_read(layout, path), environ, path=path)


def parse_settings(raw: Mapping[str, Any], environ: Mapping[str, str], *, path: Path) -> Settings:
    """As :func:`load_settings`, from a table that was read already; ``path`` is for messages.

    Secrets in files and the data directory are taken as relative to the parent of ``path``.
    """
    try:
        overlaid = overlay(raw, environ)
        settings = Settings.model_validate(overlaid.raw, context={"base": path.parent})
    except ValidationError as e:
        found = [_with_origin(p, overlaid.origins) for p in explain(e)]
        raise to_error(path, [*overlaid.problems, *found]) from None
    except RecursionError:
        raise ConfigError(f"{path}: tables are nested too deep", hint="flatten them") from None
    settings, refused = mounts.resolve(settings, path.parent)
    found = [_with_origin(p, overlaid.origins) for p in [*rules.problems(settings), *refused]]
    if overlaid.problems or found:
        raise to_error(path, [*overlaid.problems, *found])
    return settings.with_warnings((*rules.warnings(settings), *_notes(overlaid.origins)))


def _notes(origins: Mapping[Where, str]) -> list[str]:
    """Names so general that they may have been set for something else."""
    variable = origins.get(("server", "listen"), "")
    if not variable.startswith("PROXY_"):
        return []
    return [f"server.listen comes from {variable}; NANOKIMI_SERVER__LISTEN is the clearer name"]


def _with_origin(problem: Problem, origins: Mapping[Where, str]) -> Problem:
    """Say so when the value came from a variable: the file is not the place to correct it."""
    variable = origins.get(problem.where)
    if variable is None:
        return problem
    return Problem(
        problem.where, f"(from the environment variable {variable}) {problem.text}", problem.fix
    )


def _place(where: Layout | Path) -> tuple[Layout, Path]:
    if isinstance(where, Layout):
        return where, where.config
    if where.is_dir():
        layout = Layout(where.absolute())
        return layout, layout.config
    return Layout(where.absolute().parent), where.absolute()


def _read(layout: Layout, path: Path) -> dict[str, Any]:
    stray = _stray(layout, path)
    if stray is not None:
        right = layout.root / layout.config.name
        if path.parent.name == "credentials":
            right = path.parent.parent / path.name
        raise ConfigError(
            f"{stray} lies in the credentials directory, which holds nothing but tokens",
            hint=f"move it: mv {stray} {right}" if not right.exists() else f"remove {stray}",
        )
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is not there", hint="run `nanokimi init`, which writes one with comments"
        ) from None
    except OSError as e:
        raise ConfigError(
            f"{path} cannot be read: {e.strerror}",
            hint="make it a plain file that this user may read",
        ) from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes", hint="make it smaller")
    return parse_toml(data, path)


def _stray(layout: Layout, path: Path) -> Path | None:
    """A config among the credentials: as the file that was asked for, or as a leftover."""
    if path.parent.name == "credentials":
        return path
    leftover = layout.credentials / layout.config.name
    if os.path.lexists(leftover):
        return leftover
    real = Path(os.path.realpath(path))
    return real if Path(os.path.realpath(layout.credentials)) in real.parents else None


def parse_toml(data: bytes, path: Path) -> dict[str, Any]:
    """Bytes to a raw table.

    Raises:
        ConfigError: not UTF-8 or not TOML; says the line and the column.
    """
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ConfigError(f"{path} is not UTF-8 (line {line})", hint="save it as UTF-8") from None
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path} is not TOML: {e}", hint=_advice(str(e))) from None
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path} is not usable TOML: {e}", hint="simplify it") from None


def _advice(message: str) -> str:
    if "Cannot overwrite" in message or "twice" in message:
        return "each key and table may appear only once; merge the two"
    if "Invalid value" in message:
        return "put text in quotes; numbers, true and false go without"
    return 'correct that place; table names with a colon need quotes: [providers."managed:x"]'
