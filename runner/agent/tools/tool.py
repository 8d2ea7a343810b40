"""What a tool is."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.agent.children import Children
from runner.agent.tools.workspace import Workspace


class ToolError(Exception):
    """Goes to the model as the text of a failed result."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model is told."""

    text: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """Where a session's tools work."""

    workspace: Workspace
    children: Children


@dataclass(frozen=True, slots=True)
class Tool:
    """``arguments`` is a msgspec struct; ``properties`` its JSON Schema, kept to the simple subset
    that the API takes; ``kind`` is ACP's.
    """

    name: str
    description: str
    kind: str
    arguments: type
    properties: Mapping[str, Any]
    required: tuple[str, ...]
    run: Callable[[Any, Room], Awaitable[Outcome]]


def environment() -> dict[str, str]:
    """The environment of a tool's process: nothing of the agent's own but these."""
    return {
        "PATH": os.environ.get("PATH") or os.defpath,
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }
