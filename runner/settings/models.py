"""What is known about models: families, context sizes, prices, retired names. Data, with a date.

The facts live in ``models.toml`` beside this file; an operator's ``data/models.toml`` is laid over
them, so that a new model or price needs no new release.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from runner.errors import ConfigError
from runner.settings.problem import Problem, to_error
from runner.settings.tables import Table

ServiceId = Literal["kimi-code", "open-platform"]
ThinkingStyle = Literal["switch", "switch-effort", "effort", "always"]
OutputLimit = Literal["max_completion_tokens", "max_tokens"]

_SHIPPED = Path(__file__).with_name("models.toml")
_ENDS_OF_NAME = "-:@"
_T = TypeVar("_T")


class Price(Table):
    """US dollars per million tokens: input that missed the prefix cache, hit it, and output."""

    input: float = Field(ge=0)
    cached: float = Field(ge=0)
    output: float = Field(ge=0)
    since: date


class Family(Table):
    """How a family of Kimi models wants to be spoken to; ``models.toml`` explains each key."""

    thinking: ThinkingStyle
    needs_reasoning: bool
    fixed_sampling: tuple[str, ...] = Field((), strict=False)
    output_limit: OutputLimit = "max_completion_tokens"


class ModelFacts(Table):
    """One model. ``id`` is the table's name, ``context`` tokens; ``price`` may be unknown.

    ``family`` is ``None`` for a model that is spoken to like any other.
    """

    id: str
    context: int | None = Field(None, ge=1024)
    family: Family | None = None
    price: Price | None = None
    service: ServiceId | None = None


class Retired(Table):
    """A name that is gone: ``happened`` completes "…, which …"."""

    happened: str
    on: date | None = None
    successor: str

    @property
    def sentence(self) -> str:
        """``was retired on 2026-08-31``."""
        return f"{self.happened} on {self.on.isoformat()}" if self.on else self.happened


class Service(Table):
    """One of the vendor's services: its default model and how its ids begin."""

    default: str
    prefixes: tuple[str, ...] = Field((), strict=False)


class _ModelTable(Table):
    family: str | None = None
    service: ServiceId | None = None
    context: int | None = Field(None, ge=1024)
    price: Price | None = None


class _File(Table):
    as_of: date
    families: dict[str, Family]
    models: dict[str, _ModelTable]
    retired: dict[str, Retired]
    services: dict[ServiceId, Service]


class Models:
    """All facts of one date. Names are found with or without a vendor in front, in any case."""

    def __init__(
        self,
        as_of: date,
        models: Mapping[str, ModelFacts],
        retired: Mapping[str, Retired],
        services: Mapping[ServiceId, Service],
    ) -> None:
        self.as_of = as_of
        self.services = services
        self._models = models
        self._retired = retired

    @property
    def known(self) -> tuple[str, ...]:
        """The names of all models that have facts."""
        return tuple(self._models)

    def find(self, model: str) -> ModelFacts | None:
        """The facts of a model id; the longest known name that it begins with wins."""
        return _longest(self._models, model)

    def retired(self, model: str) -> Retired | None:
        """What became of a name that is gone; ``None`` when it is known or was never ours."""
        return None if self.find(model) else _longest(self._retired, model)

    def service_of(self, model: str) -> ServiceId | None:
        """The service that an id belongs to, by its facts or by how it begins.

        An id with a vendor in front is somebody else's.
        """
        if "/" in model:
            return None
        if (facts := self.find(model)) is not None:
            return facts.service
        return next((s for s, t in self.services.items() if model.startswith(t.prefixes)), None)


@cache
def shipped() -> Models:
    """The facts that came with this release."""
    return load_models(None)


def load_models(override: Path | None) -> Models:
    """The shipped facts with those of ``override`` (``data/models.toml``) over them.

    A file that is not there is no override.

    Raises:
        ConfigError: the file is not TOML, or a fact in it makes no sense.
    """
    raw = tomllib.loads(_SHIPPED.read_text("utf-8"))
    if override is not None:
        raw = _merged(raw, _read(override))
    path = override or _SHIPPED
    try:
        return _build(_File.model_validate(raw))
    except ValidationError as e:
        raise to_error(
            path, [Problem(p["loc"], f"is wrong: {p['msg']}") for p in e.errors()]
        ) from e
    except KeyError as e:
        raise ConfigError(
            f'{path}: a model names the family "{e.args[0]}", which is not there',
            hint="write [families.NAME] for it, or leave family out",
        ) from None


def _build(file: _File) -> Models:
    models = {
        id_.lower(): ModelFacts(
            id=id_,
            context=table.context,
            family=None if table.family is None else file.families[table.family],
            price=table.price,
            service=table.service,
        )
        for id_, table in file.models.items()
    }
    retired = {name.lower(): entry for name, entry in file.retired.items()}
    return Models(file.as_of, models, retired, file.services)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as e:  # not UTF-8 and not TOML are ValueErrors
        raise ConfigError(
            f"{path} cannot be read: {e}", hint="correct it, or move it away to use our facts"
        ) from None


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merged(old, value)
        else:
            merged[key] = value
    return merged


def _bare(model: str) -> str:
    return model.rsplit("/", 1)[-1].lower()


def _longest(table: Mapping[str, _T], model: str) -> _T | None:
    name = _bare(model)
    while name not in table:
        cut = max(name.rfind(c) for c in _ENDS_OF_NAME)
        if cut <= 0:
            return None
        name = name[:cut]
    return table[name]
