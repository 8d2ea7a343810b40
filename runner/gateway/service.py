"""The gateway: who may call, who is asked, what is remembered and booked for each call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

import httpx
import msgspec
import structlog

from runner.calls import Call, Failure, Outcome, Tokens
from runner.gateway import exchange
from runner.gateway.asking import Ask, Opened, Policy, Refused, SystemClock
from runner.gateway.budgets import Spending, allows, limits_of
from runner.gateway.caching.explicit import ExplicitCaching, Wish
from runner.gateway.calls import call
from runner.gateway.cooldown import Key
from runner.gateway.exchange import AnswerStream, Asked, Watch
from runner.gateway.failure import BROKEN_TYPE, LOGIN_TYPE, GatewayFailure
from runner.gateway.formats import Json
from runner.gateway.formats.chat_to_anthropic import to_anthropic_request
from runner.gateway.formats.errors import Untranslatable
from runner.gateway.opening import Answer
from runner.gateway.prices import known_cost, prices_of
from runner.gateway.reasoning import ReasoningMemory
from runner.gateway.repair import missing, repair
from runner.gateway.rests import Rests
from runner.gateway.routing import Plan, Router
from runner.gateway.rules import prepare
from runner.gateway.shaping import session_of, shape
from runner.gateway.targets import Credential, Target
from runner.gateway.thinking import ThinkingWish
from runner.settings.models import Models
from runner.settings.schema import Settings
from runner.settings.tables import GatewayKey

log = structlog.get_logger()

MAX_ANSWER = 64 * 1024 * 1024
CONNECT_DEADLINE = 10.0
SILENCE_DEADLINE = 300.0

NO_LOGIN = (
    "the host has no usable login for this model: `nanokimi auth status` says why, "
    "`nanokimi login` makes one"
)

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a group's sandbox, or somebody with a key. ``scope`` keeps memories apart."""

    scope: str
    group: str = ""
    key: GatewayKey | None = field(default=None, repr=False)

    @property
    def key_name(self) -> str:
        return self.key.name if self.key is not None else ""


class TokenGiver(Protocol):
    """Gives the token of a credential; ``renew``: the last one was just refused."""

    async def token(self, credential: Credential, *, renew: bool) -> str: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What a gateway is made of; ``book`` takes each call when it has ended."""

    settings: Settings
    router: Router
    models: Models
    rests: Rests
    memory: ReasoningMemory
    tokens: TokenGiver
    spending: Spending
    book: Callable[[Call], None]
    caching: ExplicitCaching | None = None


@dataclass(slots=True)
class Reply:
    """What the client gets: bytes that are there, or a stream of them."""

    status: int
    headers: dict[str, str]
    body: bytes | AsyncIterator[bytes]


class Gateway:
    """Answers requests of both APIs. ``parts`` may be replaced while it runs (a reload)."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._turns = count()

    async def aclose(self) -> None:
        """Close the connections to the providers."""
        for client in self._clients.values():
            await client.aclose()

    def models(self, caller: Caller) -> list[str]:
        """The names that this caller may ask for."""
        names = self.parts.router.names
        return [n for n in names if caller.key is None or allows(caller.key, n)]

    async def answer(self, caller: Caller, asked: Asked) -> Reply:
        """Carry one request out. Cancelling it cancels what is under way at the provider."""
        running = _Running(self, caller, asked)
        try:
            return await running.run()
        except asyncio.CancelledError:
            running.book(Outcome.CANCELLED)
            raise
        except RecursionError:
            running.book(Outcome.REFUSED)
            failure = GatewayFailure(400, "invalid_request_error", "the body is nested too deep")
            return running.error(failure, {})

    def client(self, proxy: str) -> httpx.AsyncClient:
        """One pool of connections for each way out."""
        if proxy not in self._clients:
            self._clients[proxy] = httpx.AsyncClient(
                proxy=proxy or None,
                timeout=httpx.Timeout(SILENCE_DEADLINE, connect=CONNECT_DEADLINE, pool=30.0),
                limits=httpx.Limits(max_connections=1000, max_keepalive_connections=200),
                follow_redirects=False,
            )
        return self._clients[proxy]

    def next_turn(self) -> int:
        return next(self._turns)


class _Running:
    """One call on its way."""

    def __init__(self, gateway: Gateway, caller: Caller, asked: Asked) -> None:
        self._gateway = gateway
        self._parts = gateway.parts
        self._caller = caller
        self._asked = asked
        self._began = time.monotonic()
        self._at = time.time()
        self._plan: Plan | None = None
        self._sent: dict[Key, Json] = {}
        self._watch: Watch | None = None
        self._done: Opened | Refused | None = None
        self._first_byte: float | None = None
        self._booked = False

    async def run(self) -> Reply:
        refusal = self._refusal()
        if refusal is not None:
            self.book(Outcome.REFUSED)
            return self.error(refusal, {})
        found = self._parts.router.resolve(
            self._asked.model,
            session=session_of(self._asked.chat, self._caller.scope),
            group=self._caller.group or self._caller.scope,
            turn=self._gateway.next_turn(),
        )
        if isinstance(found, GatewayFailure):
            self.book(Outcome.REFUSED)
            return self.error(found, {})
        self._plan = found
        for warning in found.warnings:
            log.warning("gateway.model", text=warning)
        settings = self._parts.settings.gateway
        done = await call(
            found,
            self._send,
            SystemClock(),
            self._parts.rests,
            # An agent in a sandbox retries by itself, as its loop_control says.
            policy=Policy(
                0 if self._caller.group else settings.max_retries,
                settings.backoff_factor,
                settings.deadline,
            ),
            group=self._caller.group,
        )
        self._done = done
        if isinstance(done, Refused):
            self.book(Outcome.FAILED)
            failure = done.failure
            if self._caller.group and failure.type == LOGIN_TYPE:
                # Why is for the operator; the group's members would read paths of the host.
                log.warning("gateway.no_login", group=self._caller.group, why=failure.message)
                failure = replace(failure, message=NO_LOGIN)
            return self.error(failure, done.headers)
        self._first_byte = time.monotonic()
        self._watch = Watch(done.target.format, self._sent[done.target.key])
        if self._asked.stream and done.answer.headers.get("content-type", "").startswith(
            "text/event-stream"
        ):
            headers = {**done.headers, "content-type": "text/event-stream; charset=utf-8"}
            return Reply(200, headers, self._streamed(done, self._watch))
        return await self._whole(done, self._watch)

    def _refusal(self) -> GatewayFailure | None:
        key = self._caller.key
        if key is not None and not allows(key, self._asked.model):
            text = f'this key may not ask for "{self._asked.model[:100]}"'
            return GatewayFailure(403, "permission_error", text)
        limits = limits_of(self._parts.settings.gateway.budgets, self._caller.group, key)
        return self._parts.spending.refusal(limits, self._at)

    # -- asking a provider ----------------------------------------------------------------------

    async def _send(self, ask: Ask) -> Answer:
        target = ask.target
        body = await self._body(target)
        token = await self._parts.tokens.token(target.credential, renew=ask.renew)
        headers = {
            "user-agent": target.user_agent,
            **target.headers,
            "content-type": "application/json",
            "accept-encoding": "identity",
        }
        if target.format == "anthropic":
            headers |= {"x-api-key": token, "anthropic-version": "2023-06-01"}
        elif token:
            headers["authorization"] = f"Bearer {token}"
        client = self._gateway.client(target.proxy)

        async def post(more: Mapping[str, str]) -> Answer:
            request = client.build_request(
                "POST", target.url, content=body, headers={**headers, **more}
            )
            answer = await client.send(request, stream=True)
            names = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status_code, names, answer.aiter_raw(), answer.aclose)

        caching, settings = self._parts.caching, self._parts.settings.gateway
        if caching is None or settings.cache != "explicit" or target.format != "openai":
            return await post({})
        wish = Wish(
            target=target,
            token=token,
            request=self._sent[target.key],
            conversation=session_of(self._asked.chat, self._caller.scope),
            hosts=settings.cache_hosts,
            facts=self._parts.models.find(target.model),
        )
        return await caching.send(wish, post)

    async def _body(self, target: Target) -> bytes:
        """The request as this target gets it; kept, to understand the answer by."""
        assert self._plan is not None
        asked, route = self._asked, self._plan.route
        if target.format == "anthropic" and asked.api == "anthropic" and route is None:
            self._sent[target.key] = asked.chat
            return _encode({**asked.original, "model": target.model, **target.extra_body})
        shaped = shape(asked.chat, target, route)
        if target.format == "anthropic":
            self._sent[target.key] = shaped
            return _encode(to_anthropic_request(shaped))
        facts = self._parts.models.find(target.model)
        wish = ThinkingWish.of(target.thinking_level)
        if shaped.get("stream"):
            shaped["stream_options"] = {"include_usage": True}
        prepared = prepare(shaped, facts, thinking=wish)
        if self._parts.settings.gateway.thinking_repair:
            keys = missing(prepared, facts)
            found = await self._parts.memory.recall(self._caller.scope, keys) if keys else {}
            prepared, report = repair(prepared, facts, found)
            if report.changed:
                log.info(
                    "gateway.repaired",
                    restored=report.restored,
                    placeholders=report.placeholders,
                )
        self._sent[target.key] = prepared
        return _encode(prepared)

    # -- answering ------------------------------------------------------------------------------

    async def _whole(self, opened: Opened, watch: Watch) -> Reply:
        async with opened:
            try:
                body = await _read(opened)
                if self._asked.stream:
                    text = exchange.whole_as_stream(self._asked, opened.target.format, body, watch)
                    kind = "text/event-stream; charset=utf-8"
                else:
                    text = exchange.whole_answer(self._asked, opened.target.format, body, watch)
                    kind = "application/json"
            except Untranslatable as e:
                self.book(Outcome.CUT)
                return self.error(e.failure, opened.headers)
            except (httpx.HTTPError, OSError) as e:
                self.book(Outcome.CUT)
                return self.error(_broke(opened, e), opened.headers)
        await self._remember(watch)
        self.book(Outcome.OK)
        return Reply(200, {**opened.headers, "content-type": kind}, text)

    async def _streamed(self, opened: Opened, watch: Watch) -> AsyncIterator[bytes]:
        stream = AnswerStream(self._asked, opened.target.format, watch)
        outcome = Outcome.CANCELLED
        remembered = False
        try:
            async with opened:
                try:
                    async for chunk in opened.body():
                        out = stream.feed(chunk)
                        if watch.whole and not remembered:
                            # Before the client knows that it may go on with the next request.
                            remembered = True
                            await self._remember(watch)
                        if out:
                            yield out
                    last = stream.end()
                except (httpx.HTTPError, OSError) as e:
                    last = stream.fail(_broke(opened, e))
            outcome = Outcome.OK if stream.failure is None else Outcome.CUT
            self.book(outcome)
            if last:
                yield last
        finally:
            self.book(outcome)

    async def _remember(self, watch: Watch) -> None:
        if thoughts := watch.thoughts():
            await self._parts.memory.remember(self._caller.scope, thoughts)

    def error(self, failure: GatewayFailure, headers: dict[str, str]) -> Reply:
        """A failure in the words of the client's API."""
        headers = {**headers, "content-type": "application/json"}
        if failure.retry_after is not None:
            headers["retry-after"] = str(max(1, round(failure.retry_after)))
        return Reply(failure.status, headers, exchange.error_body(self._asked.api, failure))

    def book(self, outcome: Outcome) -> None:
        """Put the call into the books; once, whatever comes after."""
        if self._booked:
            return
        self._booked = True
        done = self._done
        attempts = done.attempts if done is not None else ()
        target = attempts[-1].target if attempts else None
        tokens = self._watch.tokens if self._watch is not None else Tokens()
        price = prices_of(self._parts.models)(target.model) if target is not None else None
        cost = known_cost(tokens, price)
        booked = Call(
            at=self._at,
            outcome=outcome,
            group=self._caller.group,
            key=self._caller.key_name,
            route=self._plan.route.name if self._plan and self._plan.route else "",
            provider=target.provider if target is not None else "",
            model=target.model if target is not None else self._asked.model[:200],
            tokens=tokens,
            price=price,
            cost=cost,
            first_byte_ms=None
            if self._first_byte is None
            else (self._first_byte - self._began) * 1000,
            total_ms=(time.monotonic() - self._began) * 1000,
            fallback=isinstance(done, Opened) and done.fallback,
            attempts=len(attempts),
            failures=tuple(
                Failure(a.target.provider, a.target.model, a.reason) for a in attempts if a.reason
            ),
        )
        self._parts.book(booked)
        self._parts.spending.add(booked)


async def _read(opened: Opened) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in opened.body():
        size += len(chunk)
        if size > MAX_ANSWER:
            text = f"the provider's answer has more than {MAX_ANSWER} bytes"
            raise Untranslatable(GatewayFailure(502, BROKEN_TYPE, text))
        parts.append(chunk)
    return b"".join(parts)


def _broke(opened: Opened, e: Exception) -> GatewayFailure:
    text = f"{opened.target.provider} broke the connection: {type(e).__name__} {e}".strip()
    return GatewayFailure(502, BROKEN_TYPE, text)
