"""Where the agents' calls arrive: says what a group's turn may use, and runs a call once.

Which group is calling, its socket says; which turn, the dispatcher; who asked, the messages of that
turn. Nothing that the agent sends decides any of these.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from pydantic import ValidationError

from runner.errors import NanokimiError, PermanentError
from runner.host.events import EventLog
from runner.host.redact import redact
from runner.host.tools import policy
from runner.host.tools.tool import AnyTool, Arguments, Context, schema_of
from runner.model import Message, Role, Turn
from runner.settings.schema import Settings
from runner.store import Store, tool_calls

log = structlog.get_logger()

MAX_RESULT = 100_000
MAX_AT_ONCE = 4
MAX_CALLS = 1_000
_UNTOLD = ("no_turn", "call_limit")  # an agent may have these without end

Current = Callable[[str], tuple[Turn, tuple[Message, ...]] | None]
"""The turn that a group runs now, with its messages."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as an agent sees it."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """What the model is told."""

    text: str
    failed: bool = False


@dataclass(slots=True)
class _Attempt:
    """What one attempt of a turn has called so far."""

    turn_id: str
    number: int
    began: float
    calls: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    looked: Counter[str] = field(default_factory=Counter)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_AT_ONCE))

    def look(self, key: str) -> str:
        """The key of a call that may run again: an attempt uses none of them twice."""
        self.looked[key] += 1
        return f"{key}:{self.looked[key]}"


class ToolDesk:
    """``tools`` are offered in this order, always.

    Args:
        secrets: what must not be told to a chat, though an open sandbox may hold it.
    """

    def __init__(
        self,
        store: Store,
        log_: EventLog,
        settings: Callable[[], Settings],
        current: Current,
        tools: Sequence[AnyTool],
        secrets: Callable[[], Collection[str]],
    ) -> None:
        self._store = store
        self._log = log_
        self._settings = settings
        self._current = current
        self._secrets = secrets
        self._tools = {tool.name: tool for tool in tools}
        self._attempts: dict[str, _Attempt] = {}

    def offers(self, group: str) -> tuple[Offer, ...]:
        """What the group's running turn may use; what any member may when none runs."""
        current = self._current(group)
        role = policy.role_of(current[1]) if current else Role.MEMBER
        settings = self._settings()
        of_group = settings.for_group(group)
        return tuple(
            _offer(tool, tool.arguments_for(of_group, role))
            for tool in self._tools.values()
            if not policy.refusal(tool, settings, of_group, role)
        )

    def digest(self, group: str) -> str:
        """Names the offers of now: equal ones have equal names. An attempt begins with it."""
        if current := self._current(group):
            self._attempt(current[0])
        said = [(o.name, o.description, o.schema) for o in self.offers(group)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    async def call(self, group: str, name: str, arguments: Mapping[str, Any], key: object) -> Said:
        """Run one call; whatever goes wrong is said to the model.

        Args:
            key: what the agent calls this call, in this and in every later attempt of the turn.
        """
        try:
            text = await self._run(group, name, arguments, key)
        except NanokimiError as e:
            if e.code not in _UNTOLD:
                log.info("tool.refused", group=group, tool=name[:60], code=e.code, error=e.message)
            hint = policy.without_settings(e.hint)
            return Said(f"{e.message}. {hint}" if hint else e.message, failed=True)
        except Exception as e:
            log.exception("tool.bug", group=group, tool=name[:60])
            return Said(f"{name[:60]} failed inside the host ({type(e).__name__})", failed=True)
        if len(text) > MAX_RESULT:
            text = f"{text[:MAX_RESULT]}\n[cut: {len(text) - MAX_RESULT} more characters]"
        return Said(text)

    async def _run(self, group: str, name: str, arguments: Mapping[str, Any], key: object) -> str:
        current = self._current(group)
        if current is None:
            raise PermanentError(
                "no turn of this group is running, and only its tools may be used",
                hint="wait for the next message",
                code="no_turn",
            )
        turn, messages = current
        attempt = self._attempt(turn)
        attempt.calls += 1
        if attempt.calls > MAX_CALLS:
            raise PermanentError(f"more than {MAX_CALLS} calls in one turn", code="call_limit")
        tool = self._tools.get(name)
        if tool is None:
            raise PermanentError(f"the host has no tool {name[:60]!r}", code="unknown_tool")
        settings = self._settings()
        of_group = settings.for_group(group)
        role = policy.role_of(messages)
        if why := policy.refusal(tool, settings, of_group, role):
            raise PermanentError(why, hint="do it without, or say so", code="tool_off")
        safe = redact(dict(arguments), self._secrets())
        asked = _parse(tool, tool.arguments_for(of_group, role), safe)
        known_as = policy.sent_key(key) or _nth(attempt, name, arguments)
        if tool.looks:  # it runs again for a known key, so each of its runs counts
            known_as = attempt.look(known_as)
        call = tool_calls.Call(
            turn,
            known_as,
            name,
            policy.table_of(tool, settings).per_turn,
        )
        deadline = attempt.began + settings.host.turn_timeout
        context = Context(
            call, messages, role, settings, of_group, self._store, self._log, deadline
        )
        async with attempt.slots:
            if tool.looks:
                await self._store.transact(lambda c: tool_calls.count(c, call), group)
            elif found := await self._store.transact(lambda c: tool_calls.admit(c, call), group):
                return found.text or ""
            return await tool.call(context, asked)

    def _attempt(self, turn: Turn) -> _Attempt:
        known = self._attempts.get(turn.group)
        if known is None or (known.turn_id, known.number) != (turn.id, turn.attempt):
            over = [g for g in self._attempts if self._current(g) is None]
            for group in over:
                del self._attempts[group]
            known = self._attempts[turn.group] = _Attempt(turn.id, turn.attempt, time.monotonic())
        return known


def _nth(attempt: _Attempt, name: str, arguments: Mapping[str, Any]) -> str:
    content = policy.content_of(name, arguments)
    attempt.seen[content] += 1
    return policy.content_key(content, attempt.seen[content])


def _parse(tool: AnyTool, model: type[Arguments], arguments: Mapping[str, Any]) -> Arguments:
    if policy.unstorable(arguments):
        raise PermanentError(
            "the arguments hold a character that cannot be stored",
            hint="leave out NUL and lone surrogates",
            code="bad_arguments",
        )
    try:
        return model.model_validate(dict(arguments))
    except ValidationError as e:
        extra = {p["loc"] for p in e.errors() if p["type"] == "extra_forbidden"}
        if ("group",) in extra and tool.admin_arguments is not None:
            raise PermanentError(
                "only admins of an admin group may name another group",
                hint="leave out group",
                code="bad_arguments",
            ) from None
        wrong = "; ".join(
            f"{'.'.join(map(str, p['loc'])) or 'arguments'}: {p['msg']}" for p in e.errors()[:5]
        )
        raise PermanentError(
            f"the arguments do not fit {tool.name}: {wrong}"[:2000], code="bad_arguments"
        ) from None


@functools.cache
def _schema(model: type[Arguments]) -> Mapping[str, Any]:
    return schema_of(model)


def _offer(tool: AnyTool, model: type[Arguments]) -> Offer:
    return Offer(tool.name, tool.description, _schema(model))
