"""Tool parameters in the subset of JSON Schema that Kimi takes. Pure.

What a schema means to a model survives; what only a validator needs is dropped. The rules:

=====================================  ==========================================================
found                                  becomes
=====================================  ==========================================================
keyword that is not in ``_KEYWORDS``   dropped, or a value of the wrong type with its keyword
``$ref`` into the schema               the target in its place, other keywords beside it on top
``$ref`` to outside or to nowhere      dropped, the other keywords stay
``$ref`` back to where we are in       only type and description of the target
``oneOf``                              ``anyOf``
``allOf``                              merged into the schema that holds it
``const``                              ``enum`` of one
``type`` beside ``anyOf``              moved into the alternatives that name none
``anyOf`` at the top                   one object: all properties, required where all require it
top that is no object                  an object
too deep, too large                    only type and description
=====================================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from runner.gateway.formats import Json

MAX_DEPTH = 24
MAX_NODES = 4_000
_CACHED_BYTES = 16 * 1024
_CACHED_SCHEMAS = 1_024

_NUMBER = (int, float)
_KEYWORDS: Mapping[str, type | tuple[type, ...]] = {
    "type": (str, list),
    "title": str,
    "description": str,
    "format": str,
    "pattern": str,
    "enum": list,
    "default": object,
    "minimum": _NUMBER,
    "maximum": _NUMBER,
    "exclusiveMinimum": _NUMBER,
    "exclusiveMaximum": _NUMBER,
    "multipleOf": _NUMBER,
    "minLength": int,
    "maxLength": int,
    "minItems": int,
    "maxItems": int,
    "uniqueItems": bool,
    "minProperties": int,
    "maxProperties": int,
}
_OUTLINE = ("type", "description")


def with_flavour(tools: Sequence[Any]) -> list[Any]:
    """The tools with their parameters in Kimi's subset; of two with one name the first stays."""
    out: list[Any] = []
    names: set[str] = set()
    for tool in tools:
        match tool:
            case {"type": "function", "function": {"name": str() as name} as function}:
                if name in names:
                    continue
                names.add(name)
                if function.get("parameters") is not None:
                    parameters = flavoured(function["parameters"])
                    tool = {**tool, "function": {**function, "parameters": parameters}}
        out.append(tool)
    return out


def flavoured(schema: object) -> Json:
    """The parameters of one tool, see the table above. Small schemas are remembered."""
    raw = msgspec.json.encode(schema)
    return _remembered(raw) if len(raw) <= _CACHED_BYTES else _top(schema)


@lru_cache(_CACHED_SCHEMAS)
def _remembered(raw: bytes) -> Json:
    return _top(msgspec.json.decode(raw))


def _top(schema: object) -> Json:
    if not isinstance(schema, dict):
        return {"type": "object", "properties": {}}
    top = _hoisted(_Walk(schema).schema(schema, frozenset(), 0))
    return {**top, "type": "object"} if "type" in top else {"type": "object", **top}


class _Walk:
    """One pass over one schema; the number of nodes is bounded, since references can multiply."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._left = MAX_NODES

    def schema(self, node: object, inside: frozenset[str], depth: int) -> Json:
        """``inside`` holds the references that led here."""
        if not isinstance(node, dict):
            return {}  # true and false: nothing can be said about the value
        self._left -= 1
        node, inside = self._resolved(node, inside)
        if depth > MAX_DEPTH or self._left < 0:
            return _outline(node)
        out: Json = {}
        for key, value in node.items():
            match key, value:
                case "properties", dict():
                    out[key] = {k: self.schema(v, inside, depth + 1) for k, v in value.items()}
                case "items" | "additionalProperties", dict():
                    out[key] = self.schema(value, inside, depth + 1)
                case "additionalProperties", bool():
                    out[key] = value
                case "anyOf" | "oneOf", [_, *_] if "anyOf" not in out:
                    out["anyOf"] = [self.schema(v, inside, depth + 1) for v in value]
                case "const", _ if "enum" not in node:
                    out["enum"] = [value]
                case "required", list():
                    out[key] = [name for name in value if isinstance(name, str)]
                case _ if isinstance(value, _KEYWORDS.get(key, ())):
                    out[key] = value
        branches = node.get("allOf")
        for branch in branches if isinstance(branches, list) else ():
            out = _merged(out, self.schema(branch, inside, depth + 1))
        return _with_types_inside(out)

    def _resolved(self, node: Json, inside: frozenset[str]) -> tuple[Json, frozenset[str]]:
        while isinstance(ref := node.get("$ref"), str):
            rest = {k: v for k, v in node.items() if k != "$ref"}
            target = _target(self._root, ref)
            if target is None:
                return rest, inside
            if ref in inside:
                return {**_outline(target), **rest}, inside
            node, inside = {**target, **rest}, inside | {ref}
        return node, inside


def _target(root: Json, ref: str) -> Json | None:
    """What a local reference points at, by RFC 6901."""
    if ref == "#":
        return root
    if not ref.startswith("#/"):
        return None
    node: object = root
    for step in ref[2:].split("/"):
        if not isinstance(node, dict):
            return None
        node = node.get(step.replace("~1", "/").replace("~0", "~"))
    return node if isinstance(node, dict) else None


def _outline(node: Json) -> Json:
    return {k: node[k] for k in _OUTLINE if isinstance(node.get(k), str)}


def _merged(one: Json, other: Json) -> Json:
    """Both schemas at once, as ``allOf`` asks; where they disagree, the first one wins."""
    out = {**other, **one}
    if "properties" in one and "properties" in other:
        out["properties"] = {**other["properties"], **one["properties"]}
    if "required" in one and "required" in other:
        out["required"] = list(dict.fromkeys((*one["required"], *other["required"])))
    return out


def _with_types_inside(schema: Json) -> Json:
    if "anyOf" not in schema or "type" not in schema:
        return schema
    type_ = schema["type"]
    out = {k: v for k, v in schema.items() if k != "type"}
    out["anyOf"] = [
        b if "type" in b or "anyOf" in b else {"type": type_, **b} for b in schema["anyOf"]
    ]
    return out


def _hoisted(schema: Json) -> Json:
    """A schema without alternatives at its top: their properties, and what all of them require."""
    if "anyOf" not in schema:
        return schema
    out = {k: v for k, v in schema.items() if k != "anyOf"}
    branches = [b for b in map(_hoisted, schema["anyOf"]) if "properties" in b or "required" in b]
    properties = dict(schema.get("properties", {}))
    for branch in branches:
        for name, value in branch.get("properties", {}).items():
            properties.setdefault(name, value)
    if properties:
        out["properties"] = properties
    required = (*schema.get("required", ()), *_required_by_all(branches))
    if required:
        out["required"] = list(dict.fromkeys(required))
    return out


def _required_by_all(branches: Sequence[Json]) -> Iterator[str]:
    lists = [branch.get("required", []) for branch in branches]
    return (n for n in (lists[0] if lists else ()) if all(n in names for names in lists))
