"""What a tool of the host is: a name, a description, arguments, and one coroutine.

A tool that has an effect does it within :meth:`Context.once`, so that it happens once however
often its call is made. A tool that only looks (``looks = True``) may run again, and need not.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from runner.errors import PermanentError
from runner.host.events import EventLog
from runner.model import Message, Role, Turn
from runner.settings.group import GroupSettings
from runner.settings.schema import Settings
from runner.store import Store, groups, tool_calls
from runner.store.tool_calls import Connection as Connection
from runner.store.tool_calls import Effect as Effect
from runner.store.tool_calls import Work

_T = TypeVar("_T")


class ToolError(PermanentError):
    """The call cannot be done; message and hint tell the model why, and what to do instead."""

    code = "tool_failed"


class Arguments(BaseModel):
    """Base of every tool's arguments. What a field's ``description`` says, the model reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_A = TypeVar("_A", bound=Arguments)


class Tool(ABC, Generic[_A]):
    """Attributes:

    name: what the model calls it by.
    description: what the model knows of it.
    arguments: the model of its arguments; ``admin_arguments`` is offered to the admins of admin
        groups instead.
    table: the ``[tools.NAME]`` that switches and limits it.
    admin: only groups with ``admin = true`` have it.
    looks: it changes nothing, so a call that is made again is run again.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    arguments: ClassVar[type[Arguments]]
    admin_arguments: ClassVar[type[Arguments] | None] = None
    table: ClassVar[str]
    admin: ClassVar[bool] = False
    looks: ClassVar[bool] = False

    @abstractmethod
    async def call(self, context: Context, arguments: _A) -> str:
        """Do it; what the model is told.

        Raises:
            NanokimiError: why not; :class:`ToolError` if nothing better fits.
        """

    def arguments_for(self, of_group: GroupSettings, role: Role) -> type[Arguments]:
        """The arguments that a turn with this role is offered."""
        manages = of_group.admin and role.covers(Role.ADMIN)
        return self.admin_arguments if manages and self.admin_arguments else self.arguments


AnyTool = Tool[Any]


@dataclass(frozen=True, slots=True)
class Context:
    """One call: whose it is, and the way to do something once.

    ``turn`` and ``messages`` are what the group runs now; ``role`` is the least of those whose
    messages woke the agent. ``settings`` are those of now. ``deadline`` is when the turn is
    ended, on the monotonic clock.
    """

    call: tool_calls.Call
    messages: tuple[Message, ...]
    role: Role
    settings: Settings
    of_group: GroupSettings
    store: Store
    log: EventLog
    deadline: float

    @property
    def turn(self) -> Turn:
        return self.call.turn

    @property
    def group(self) -> str:
        return self.call.turn.group

    @property
    def time_left(self) -> float:
        """Seconds until the turn is ended."""
        return self.deadline - time.monotonic()

    async def once(self, work: Work, *, about: str = "") -> str:
        """Do ``work`` in one transaction with the call's result, unless the call is known.

        ``work`` is a function of an open connection. It may write one event, with the id that it
        is given, into the log of the group ``about`` (empty: the caller's own), and say so in its
        :class:`Effect`: the event is shown when it is on disk.

        Raises:
            PermanentError: the turn is over, or the tool was called too often.
        """
        with self.log.writing(about or self.group) as event_id:
            done = await self.store.transact(
                lambda c: tool_calls.once(c, self.call, work, event_id), self.group
            )
            if done.event is not None:
                self.log.show(done.event)
        return done.text or ""

    async def read(self, work: Callable[[Connection], _T]) -> _T:
        """Look at the store."""
        return await self.store.read(work)

    async def target(self, group: str) -> str:
        """The group that a call is about: the caller's own, or an admin's choice in an admin group.

        Raises:
            ToolError: it may not, or there is no such group.
        """
        if group in ("", self.group):
            return self.group
        if not self.of_group.admin:
            raise ToolError("this group may not act for others", hint="leave out group")
        if not self.role.covers(Role.ADMIN):
            raise ToolError(
                f"only admins may name another group, and somebody who asked is {self.role} here",
                hint="leave out group",
            )
        if await self.store.read(lambda c: groups.find(c, group)) is None:
            raise ToolError(
                f"there is no group {group[:80]!r}", hint="list_groups says which there are"
            )
        return group


def schema_of(arguments: type[Arguments]) -> dict[str, Any]:
    """JSON Schema in the subset that model APIs take: no titles, no references, no ``null``."""
    schema = arguments.model_json_schema()
    found: dict[str, Any] = _plain(schema, schema.get("$defs", {}))
    found.pop("$defs", None)
    found.pop("description", None)
    found.setdefault("properties", {})
    return found


def _plain(node: Any, defs: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_plain(n, defs) for n in node]
    if not isinstance(node, dict):
        return node
    if isinstance(ref := node.get("$ref"), str):
        rest = {k: v for k, v in node.items() if k != "$ref"}
        return _plain({**defs[ref.rsplit("/", 1)[-1]], **rest}, defs)
    some = [o for o in node.get("anyOf", ()) if o != {"type": "null"}]
    if len(some) == 1:
        rest = {k: v for k, v in node.items() if k != "anyOf"}
        return _plain({**some[0], **rest}, defs)
    return {
        # Names of properties are not keywords: one may well be called "title".
        k: {n: _plain(p, defs) for n, p in v.items()} if k == "properties" else _plain(v, defs)
        for k, v in node.items()
        if k not in ("title", "$defs") and not (k == "default" and v is None)
    }
