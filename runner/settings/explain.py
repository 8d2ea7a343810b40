"""pydantic's errors in the words of a person who edits a TOML file."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from runner.settings.problem import Problem, Where, Wrong, dotted, shorten
from runner.settings.schema import Settings
from runner.settings.units import repr_of

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "tuple_type": "a list",
    "int_from_float": "a whole number",
}
_EXAMPLES = {
    "a table": "write [{where}] with its keys below",
    "a list": 'write it like ["one", "two"]',
    "text": 'put it in quotes: "…"',
    "true or false": "write true or false, without quotes",
    "a whole number": "write digits, without quotes",
    "a number": "write a number, without quotes",
}
_BOUNDS = {
    "greater_than": ("gt", "must be more than {}"),
    "greater_than_equal": ("ge", "must be at least {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "string_too_short": ("min_length", "must have at least {} character(s)"),
    "string_too_long": ("max_length", "must have at most {} characters"),
    "too_short": ("min_length", "must have at least {} entry"),
}


def explain(error: ValidationError) -> list[Problem]:
    """One :class:`Problem` for each of pydantic's errors, in the order of the file's tables."""
    return [
        _one(tuple(e["loc"]), e["type"], e["msg"], e["input"], e.get("ctx", {}))
        for e in error.errors(include_url=False)
    ]


def _one(
    where: Where, kind: str, message: str, given: object, context: Mapping[str, Any]
) -> Problem:
    if kind == "extra_forbidden":
        return unknown_key(where, fields_at(where[:-1]))
    if where[-1:] == ("[key]",):  # pydantic's way to say: the key itself, not its value
        where = where[:-1]
    if kind == "missing":
        return Problem(where, "is missing", f"add {shorten(str(where[-1]))} = … to that table")
    if kind == "value_error" and isinstance(wrong := context.get("error"), Wrong):
        return Problem(where, wrong.text, wrong.fix)
    if kind == "finite_number":
        return Problem(where, "must be a finite number", _EXAMPLES["a number"])
    if (expected := _EXPECTED.get(kind)) is not None:
        fix = _EXAMPLES.get(expected, "").format(where=dotted(where))
        return Problem(where, f"must be {expected}, not {_kind_of(given)}", fix)
    if kind in ("literal_error", "enum"):
        return Problem(where, f"is {repr_of(given)}", f"write one of {context['expected']}")
    if kind in _BOUNDS:
        key, text = _BOUNDS[kind]
        return Problem(where, text.format(context[key]), "docs/configuration.md has the range")
    return Problem(where, f"is not valid: {message}", "docs/configuration.md explains the key")


def _kind_of(value: object) -> str:
    """The kind only: the value may be a secret."""
    match value:
        case bool():
            return "true or false"
        case str():
            return "text"
        case int() | float():
            return "a number"
        case _:
            return repr_of(value)


def unknown_key(where: Where, known: Iterable[str], word: str = "key") -> Problem:
    """Names the nearest known key: of this table, else the same key of another table."""
    name = str(where[-1])
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1, 0.6)
    if near:
        return Problem(
            where,
            f"is not a known {word}; the nearest is {dotted((*where[:-1], near[0]))}",
            f"write {near[0]} instead",
        )
    elsewhere = [path for path in all_keys() if path[-1] == name and path[:-1] != where[:-1]]
    if elsewhere:
        right = dotted(elsewhere[0])
        return Problem(
            where, f"is not a known {word}; the nearest is {right}", f"move it: {right} = …"
        )
    text = f"is not a known {word}"
    if nearest := difflib.get_close_matches(name, names, 1, 0.0):
        text += f"; the nearest is {dotted((*where[:-1], nearest[0]))}"
    return Problem(where, text, f"remove it; known here: {', '.join(names) or 'nothing'}")


def fields_at(where: Where) -> list[str]:
    """The known keys of the table at that path; none where keys are free."""
    annotation: Any = Settings
    for part in where:
        annotation = step(annotation, part)
    return list(annotation.model_fields) if is_table(annotation) else []


def step(annotation: Any, part: str | int) -> Any:
    """The type of a member: a field of a table, a value of a dict, an item of a list."""
    if is_table(annotation):
        field = annotation.model_fields.get(part)
        return None if field is None else plain(field.annotation)
    origin = get_origin(annotation)
    if origin is dict:
        return plain(get_args(annotation)[1])
    if origin is tuple:
        return plain(get_args(annotation)[0])
    return None


def plain(annotation: Any) -> Any:
    """A type without ``Annotated`` and without ``| None``."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if get_origin(annotation) in (Union, types.UnionType):
        members = [a for a in get_args(annotation) if a is not type(None)]
        return plain(members[0])
    return annotation


def is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


@cache
def all_keys() -> tuple[tuple[str, ...], ...]:
    """Every key with a fixed path, like ``("host", "trigger")``."""
    return tuple(_keys(Settings, ()))


def _keys(table: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in table.model_fields.items():
        yield (*above, name)
        inner = plain(field.annotation)
        if is_table(inner):
            yield from _keys(inner, (*above, name))
