"""The subset of JSON Schema that Kimi takes for tools, as the errors for what lies outside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

_E = TypeVar("_E")

MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")
_COMBINERS = ("anyOf", "oneOf", "allOf")


def check_tools(tools: object, error: Callable[[str], _E]) -> Iterator[_E]:
    """Every problem of the ``tools`` of a request; ``error`` makes the answer of a text."""
    if tools is None:
        return
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        yield error(f"tools must be a list of at most {MAX_TOOLS} functions")
        return
    names: set[str] = set()
    for tool in tools:
        match tool:
            case {"type": "function", "function": {"name": str() as name, **function}}:
                if not _NAME.fullmatch(name):
                    yield error(f"function name is invalid: {name[:80]}")
                if name in names:
                    yield error(f"function name {name} is duplicated")
                names.add(name)
                for detail in _schema_problems(function.get("parameters")):
                    yield error(
                        "tools.function.parameters is not a valid moonshot flavored json schema, "
                        f"details: <{detail}>"
                    )
            case _:
                yield error("a tool must be of type function and have a name")


def _schema_problems(schema: object) -> Iterator[str]:
    if schema is None:
        return
    if not isinstance(schema, Mapping):
        yield "the root must be an object"
        return
    for combiner in _COMBINERS:
        if combiner in schema:
            yield f"{combiner} is not allowed at the root"
    if schema.get("type") != "object":
        yield "the root must be of type object"
    yield from _walk(schema, schema, "")


def _walk(root: Mapping[str, Any], node: object, path: str) -> Iterator[str]:
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _walk(root, item, f"{path}.{index}")
    if not isinstance(node, Mapping):
        return
    where = f"At path '{path.lstrip('.')}'"
    if isinstance(ref := node.get("$ref"), str) and not _resolves(root, ref):
        yield f"{where}: $ref must point into this schema: {ref[:80]}"
    if path and isinstance(node.get("anyOf"), list) and "type" in node:
        yield (
            f"{where}: when using anyOf, type should be defined in anyOf items instead of the "
            "parent schema"
        )
    for key, value in node.items():
        if key not in ("enum", "const", "default", "examples"):
            yield from _walk(root, value, f"{path}.{key}")


def _resolves(root: Mapping[str, Any], ref: str) -> bool:
    if not ref.startswith("#/"):
        return False
    node: object = root
    for step in ref[2:].split("/"):
        node = node.get(step) if isinstance(node, Mapping) else None
    return isinstance(node, Mapping)
