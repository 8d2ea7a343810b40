"""Questions of the operator's own, put through the gateway without a server.

They take the way of any client's call (translation, rules, login, prices, books), but meet none of
the rests that others caused, and cause none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from runner.calls import NANO, Call
from runner.gateway.comparison import StepResult
from runner.gateway.exchange import read_request
from runner.gateway.formats import Json
from runner.gateway.routing import Router
from runner.gateway.service import Caller, Gateway, Parts
from runner.gateway.targets import Pool, Target

CALLER = Caller(scope="operator")


class Trial:
    """Asks one question after the other. Close it in the end."""

    def __init__(self, parts: Parts) -> None:
        self._book = parts.book
        self._booked: Call | None = None
        self._gateway = Gateway(replace(parts, book=self._take))

    def _take(self, call: Call) -> None:
        self._booked = call
        self._book(call)

    async def aclose(self) -> None:
        await self._gateway.aclose()

    async def ask(self, name: str, question: str, *, max_tokens: int | None = None) -> StepResult:
        """The answer of a model by its name, or why there is none; nothing is raised for that."""
        body: Json = {"model": name, "messages": [{"role": "user", "content": question}]}
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        self._booked = None
        asked = read_request("openai", msgspec.json.encode(body))
        reply = await self._gateway.answer(CALLER, asked)
        assert isinstance(reply.body, bytes)  # a stream was not asked for
        assert self._booked is not None  # every call is
        return _result(self._booked, reply.status, reply.body)


def _result(call: Call, status: int, body: bytes) -> StepResult:
    said = msgspec.json.decode(body, type=dict[str, Any])
    failed = call.failures[-1].type if call.failures and status != 200 else ""
    return StepResult(
        content=_content(said) if status == 200 else "",
        provider=call.provider,
        tokens_used=call.tokens.total or 0,
        cost=None if call.cost is None else call.cost / NANO,
        fallback_used=call.fallback,
        model=call.model,
        response_time=call.total_ms / 1000,
        error="" if status == 200 else _message(said) or f"status {status}",
        reason=failed,
    )


def _content(answer: Json) -> str:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""


def _message(answer: Json) -> str:
    error = answer.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""


def only(router: Router, target: Target) -> Router:
    """A router to this one target: no sibling key and no fallback answers in its place."""
    pools = {target.name: Pool(target.name, (target,))}
    return replace(router, targets=replace(router.targets, pools=pools), by_id={}, folded={})


def without_fallbacks(router: Router) -> Router:
    """A router whose models answer themselves or not at all; chains of routes stay."""
    return replace(
        router,
        targets=replace(
            router.targets,
            pools={n: replace(pool, fallbacks=()) for n, pool in router.targets.pools.items()},
        ),
        by_id={at: replace(pool, fallbacks=()) for at, pool in router.by_id.items()},
    )
