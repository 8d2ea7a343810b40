"""A secret of the config: prints as ``***``, and is looked up only where it is used."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from runner.errors import ConfigError
from runner.settings.problem import Wrong

MAX_BYTES = 64 * 1024


class Secret:
    """A literal, ``"env:NAME"`` or ``"file:PATH"`` (relative to the config file). Immutable.

    False when it is empty. Equal to another secret of the same source.
    """

    __slots__ = ("_base", "_source")

    def __init__(self, source: str, base: Path | None = None) -> None:
        self._source = source
        self._base = base

    def reveal(self, environ: Mapping[str, str] = os.environ) -> str:
        """The secret itself, without white space around it. Read anew by each call.

        Raises:
            ConfigError: the variable is not set, the file cannot be read or is no regular file,
                or there is nothing in it. The message never holds the secret.
        """
        kind, _, rest = self._source.partition(":")
        if kind == "env":
            value = environ.get(rest, "").strip()
            if not value:
                raise ConfigError(
                    f'the environment variable {rest}, which the config names by "env:{rest}", '
                    "is not set or empty",
                    hint=f"export {rest}, or write another source into the config",
                )
            return value
        if kind == "file":
            return _read(self._base or Path(), rest)
        return self._source.strip()

    @property
    def origin(self) -> str:
        """Where it comes from, safe to print: ``env:NAME``, ``file:PATH`` or ``literal``."""
        return self._source if self._source.startswith(("env:", "file:")) else "literal"

    def __bool__(self) -> bool:
        return bool(self._source.strip())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._source == other._source

    def __hash__(self) -> int:
        return hash(self._source)

    def __repr__(self) -> str:
        return "Secret('***')" if self else "Secret('')"

    def __str__(self) -> str:
        return "***" if self else ""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def _validate(cls, value: object, info: core_schema.ValidationInfo) -> Secret:
        if isinstance(value, Secret):
            return value
        if not isinstance(value, str):
            raise Wrong("must be text", 'write the secret, "env:NAME" or "file:PATH"')
        kind, colon, rest = value.partition(":")
        if kind in ("env", "file") and colon and not rest.strip():
            raise Wrong(f'says "{kind}:" but not which', f'write "{kind}:" and a name behind it')
        if "\x00" in value or "\n" in value.strip():
            raise Wrong("holds a line break or a NUL", "write it on one line")
        base = info.context.get("base") if isinstance(info.context, dict) else None
        return cls(value, base if isinstance(base, Path) else None)


def _read(base: Path, name: str) -> str:
    path = base / name
    try:
        path = base / Path(name).expanduser()
        # Without blocking, so that a pipe under this name cannot hang the host.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError) as e:  # RuntimeError: a ~user that does not exist
        raise ConfigError(
            f"the secret file {path} cannot be read: {getattr(e, 'strerror', None) or e}",
            hint="write the secret into that file, readable for this user only (0600)",
        ) from None
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        data = os.read(fd, MAX_BYTES + 1) if regular else b""
    finally:
        os.close(fd)
    if not regular:
        raise ConfigError(
            f"the secret file {path} is not a regular file",
            hint="name a plain file that holds nothing but the secret",
        )
    try:
        value = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        value = ""
    if not value or len(data) > MAX_BYTES or "\n" in value:
        raise ConfigError(
            f"the secret file {path} does not hold one line of text",
            hint="write the secret into it and nothing else",
        )
    return value
