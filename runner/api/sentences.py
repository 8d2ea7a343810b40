"""What is wrong with a call, in words for who wrote the client rather than pydantic's. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

_TYPES = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "an object",
    "model": "an object",
    "model_attributes": "an object",
}
_BOUNDS = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} character(s)",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entry",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
}


def sentence(found: Mapping[str, Any], body: type[BaseModel]) -> str:
    """One of pydantic's errors about a call that takes ``body``."""
    path = [part for part in found["loc"] if part != "body"]
    where = ".".join(str(part) for part in path) or "the body"
    return f"{where}: {_what(found, path, body)}"


def _what(found: Mapping[str, Any], path: Sequence[str | int], body: type[BaseModel]) -> str:
    kind, message, context = str(found["type"]), str(found["msg"]), found.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        known = _fields(body, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, 1, 0.5)
        listed = f"; there are {', '.join(known)}" if known else ""
        return f"is no field here; did you mean {near[0]}?" if near else f"is no field here{listed}"
    if kind == "int_from_float":
        return "must be a whole number"
    if (type_ := kind.removesuffix("_type").removesuffix("_parsing")) in _TYPES:
        return f"must be {_TYPES[type_]}"
    if kind in _BOUNDS:
        return _BOUNDS[kind].format_map(context)
    return message.removeprefix("Value error, ")


def _fields(body: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The fields of the object at this place of the body."""
    models = [body]
    for part in path:
        if isinstance(part, str):
            fields = [m.model_fields[part] for m in models if part in m.model_fields]
            models = [inner for field in fields for inner in _models(field.annotation)]
    return sorted({name for m in models for name in m.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
