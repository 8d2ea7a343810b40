"""Tool parameters in the subset of JSON Schema that Kimi takes."""

from __future__ import annotations

from typing import Any

import pytest

from runner.demo.schema_rules import check_tools
from runner.gateway.tool_schemas import flavoured, with_flavour

TEXT = {"type": "string"}


def top(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", **keywords}


def accepted(schema: Any) -> bool:
    tool = {"type": "function", "function": {"name": "t", "parameters": schema}}
    return not list(check_tools([tool], str))


def test_a_schema_inside_the_subset_stays_as_it_is() -> None:
    schema = top(
        description="d",
        properties={
            "path": {**TEXT, "description": "where", "minLength": 1, "default": ""},
            "type": {"enum": ["a", "b"]},
            "$ref": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "any": {"anyOf": [TEXT, {"type": "null"}]},
        },
        required=["path"],
        additionalProperties=False,
    )
    assert flavoured(schema) == schema
    assert list(flavoured(schema)) == list(schema)


@pytest.mark.parametrize(
    ("found", "becomes"),
    [
        ({"$ref": "#/$defs/P"}, {**TEXT, "description": "p"}),
        ({"$ref": "#/$defs/P", "description": "mine"}, {**TEXT, "description": "mine"}),
        ({"$ref": "#/$defs/a~1b"}, {"type": "integer"}),
        ({"$ref": "#/$defs/Chain"}, {**TEXT, "description": "p"}),
        ({"$ref": "https://example.com/s.json", "description": "d"}, {"description": "d"}),
        ({"$ref": "#/$defs/nowhere", **TEXT}, TEXT),
        ({"$ref": "#/$defs/P/type/x"}, {}),
        ({"$ref": "#/$defs/Loop"}, {}),
        ({"oneOf": [TEXT, {"type": "null"}]}, {"anyOf": [TEXT, {"type": "null"}]}),
        ({"type": "string", "anyOf": [{"minLength": 1}, {"type": "null"}]},
         {"anyOf": [{**TEXT, "minLength": 1}, {"type": "null"}]}),
        ({"allOf": [{"$ref": "#/$defs/P"}, {"minLength": 2}]},
         {**TEXT, "description": "p", "minLength": 2}),
        ({"allOf": [top(properties={"a": TEXT}, required=["a"]),
                    top(properties={"b": TEXT}, required=["b"])]},
         top(properties={"b": TEXT, "a": TEXT}, required=["a", "b"])),
        ({"const": 3}, {"enum": [3]}),
        ({**TEXT, "$comment": "x", "examples": [1], "not": {}, "if": {}, "x-mine": {"$ref": "y"}},
         TEXT),
        ({"type": 3, "title": {"$ref": "y"}, "enum": "a", "properties": [], "items": True}, {}),
        ({"type": "object", "additionalProperties": {"$ref": "#/$defs/P"}},
         {"type": "object", "additionalProperties": {**TEXT, "description": "p"}}),
        (True, {}),
        (False, {}),
    ],
)  # fmt: skip
def test_what_lies_outside_is_said_inside(found: Any, becomes: Any) -> None:
    definitions = {
        "P": {**TEXT, "description": "p"},
        "a/b": {"type": "integer"},
        "Chain": {"$ref": "#/$defs/P"},
        "Loop": {"$ref": "#/$defs/Loop"},
    }
    schema = {**top(properties={"x": found}), "$defs": definitions}
    assert flavoured(schema) == top(properties={"x": becomes})
    assert accepted(flavoured(schema))


def test_a_schema_that_holds_itself_ends_with_its_outline() -> None:
    node = top(properties={"next": {"$ref": "#/$defs/Node"}}, description="a node")
    schema = {"$ref": "#/$defs/Node", "$defs": {"Node": node}}
    outline = {"type": "object", "description": "a node"}
    assert flavoured(schema) == top(description="a node", properties={"next": outline})


def test_alternatives_at_the_top_become_one_object() -> None:
    schema = {
        "properties": {"all": TEXT},
        "required": ["all"],
        "oneOf": [
            top(properties={"a": TEXT, "b": TEXT}, required=["a", "b"]),
            top(properties={"a": {"type": "integer"}, "c": TEXT}, required=["c", "a"]),
            {"type": "null"},
        ],
    }
    assert flavoured(schema) == top(
        properties={"all": TEXT, "a": TEXT, "b": TEXT, "c": TEXT}, required=["all", "a"]
    )


@pytest.mark.parametrize("schema", [[], "x", True, 3, {}, {"type": ["object", "null"]}, TEXT])
def test_the_top_is_always_an_object(schema: Any) -> None:
    assert flavoured(schema)["type"] == "object"
    assert accepted(flavoured(schema))


def test_references_that_multiply_are_cut_before_they_fill_the_memory() -> None:
    doubled = {
        f"D{n}": top(properties={s: {"$ref": f"#/$defs/D{n + 1}"} for s in "ab"}) for n in range(40)
    }
    schema = {"$ref": "#/$defs/D0", "$defs": {**doubled, "D40": TEXT}}
    assert accepted(flavoured(schema))
    assert str(flavoured(schema)).count("properties") < 10_000


def test_a_schema_that_is_too_deep_ends_with_its_outline() -> None:
    schema: Any = TEXT
    for _ in range(300):
        schema = top(properties={"x": schema})
    assert accepted(flavoured(schema))
    assert str(flavoured(schema)).count("properties") < 50


def test_of_two_tools_with_one_name_the_first_stays_and_odd_ones_pass_by() -> None:
    def tool(description: str) -> dict[str, Any]:
        return {"type": "function", "function": {"name": "t", "description": description}}

    search = {"type": "builtin_function", "function": {"name": "$web_search"}}
    odd: list[Any] = [None, 3, {}, {"type": "function"}, search]
    assert with_flavour([tool("1"), tool("2"), *odd]) == [tool("1"), *odd]
