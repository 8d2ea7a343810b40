"""What a plan comes to: who is asked, in which order, and what the client gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import httpx
import pytest

from runner.errors import LoginRequiredError, TemporaryError
from runner.gateway.calls import Ask, Opened, Policy, Refused, call
from runner.gateway.opening import Answer
from runner.gateway.rests import Rests
from runner.gateway.routing import Plan
from runner.gateway.state import MemoryState

from .conftest import Route, entry

CHUNK = b'data: {"choices": []}\n\n'


class HandClock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@dataclass
class Reply:
    """What a provider says; ``breaks`` after its chunks instead of ending, or ``hangs``."""

    status: int = 200
    chunks: tuple[bytes, ...] = (CHUNK,)
    headers: Mapping[str, str] = field(default_factory=dict)
    breaks: bool = False
    hangs: bool = False


def error(status: int, kind: str = "", message: str = "no", **headers: str) -> Reply:
    body = f'{{"error": {{"type": "{kind}", "message": "{message}"}}}}'.encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, (body,), {"content-type": "application/json", **named})


OK = Reply(headers={"content-type": "text/event-stream"})
DOWN = error(500, "server_error")
RATE = error(429, "rate_limit_reached_error")
Said = Reply | Exception | None


class Providers:
    """Scripted providers: each credential gives its replies in order, then ``OK`` for ever."""

    def __init__(self, **replies: list[Said]) -> None:
        self._replies = replies
        self.asked: list[str] = []
        self.asks: list[Ask] = []
        self.closed = 0
        self.hanging = asyncio.Event()
        self.hangs_up = asyncio.Event()

    async def send(self, ask: Ask) -> Answer:
        secret = ask.target.credential.secret.reveal()
        name = secret.removeprefix("sk-") or "login"
        self.asked.append(name)
        self.asks.append(ask)
        waiting = self._replies.get(name, [])
        reply = waiting.pop(0) if waiting else OK
        if reply is None:  # does not even answer with a head
            await self._hang()
        if isinstance(reply, Exception):
            raise reply
        assert reply is not None
        return Answer(reply.status, reply.headers, self._body(reply), self._close)

    async def _body(self, reply: Reply) -> AsyncIterator[bytes]:
        for chunk in reply.chunks:
            yield chunk
        if reply.hangs:
            await self._hang()
        if reply.breaks:
            raise httpx.ReadError("connection reset")

    async def _hang(self) -> None:
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.hangs_up.set()

    async def _close(self) -> None:
        self.closed += 1


class Desk:
    """Everything a call needs, kept between calls."""

    def __init__(self, plan: Plan, providers: Providers) -> None:
        self.plan = plan
        self.providers = providers
        self.clock = HandClock()
        self.rests = Rests(MemoryState(), jitter=lambda: 0.0)

    async def call(self, group: str = "g", **policy: float) -> Opened | Refused:
        return await call(
            self.plan,
            self.providers.send,
            self.clock,
            self.rests,
            policy=Policy(**policy),  # type: ignore[arg-type]  # passed through as they are
            group=group,
            jitter=lambda: 0.5,
        )

    async def refused(self, **policy: float) -> Refused:
        outcome = await self.call(**policy)
        assert isinstance(outcome, Refused), outcome
        return outcome

    async def opened(self, **policy: float) -> Opened:
        outcome = await self.call(**policy)
        assert isinstance(outcome, Opened), outcome
        return outcome


MakeDesk = Callable[..., Desk]

THREE = entry("a", "openai/x", api_keys='["sk-b"]', fallbacks='["f"]') + entry(
    "f", "deepseek/y", api_key='"sk-f"'
)
ONE = entry("a", "openai/x")


@pytest.fixture
def desk(route: Route) -> MakeDesk:
    def make(text: str = ONE, name: str = "a", **replies: list[Said]) -> Desk:
        router = route(text)
        # A session whose order of the two keys is "a", then "b".
        for session in map(str, range(100)):
            plan = router.resolve(name, session=session)
            assert isinstance(plan, Plan)
            if plan.candidates[0].target.credential.secret.reveal() in ("sk-a", ""):
                break
        return Desk(plan, Providers(**replies))

    return make


# -- the order ------------------------------------------------------------------------------------


async def test_an_answer_comes_through_whole_with_who_gave_it(desk: MakeDesk) -> None:
    at = desk(a=[Reply(chunks=(b'{"a"', b": 1}"))])
    async with await at.opened() as answer:
        assert b"".join([c async for c in answer.body()]) == b'{"a": 1}'
        assert answer.headers == {
            "x-nanokimi-provider": "openai",
            "x-nanokimi-model": "x",
            "x-nanokimi-fallback": "false",
            "x-nanokimi-attempts": "1",
        }
    assert at.providers.closed == 1


async def test_the_same_one_again_then_its_sibling_then_the_fallback(desk: MakeDesk) -> None:
    at = desk(THREE, a=[DOWN] * 9, b=[DOWN] * 9)
    answer = await at.opened(max_retries=2)
    assert at.providers.asked == ["a", "a", "a", "b", "b", "b", "f"]
    assert answer.fallback
    assert answer.headers["x-nanokimi-attempts"] == "7"
    assert answer.headers["x-nanokimi-provider"] == "deepseek"
    assert [a.reason for a in answer.attempts] == ["server_error"] * 6 + [""]


async def test_waits_between_tries_grow_by_the_factor(desk: MakeDesk) -> None:
    at = desk(a=[DOWN] * 3)
    await at.opened(max_retries=3, backoff_factor=3.0)
    assert at.clock.slept == [0.5, 1.5, 4.5]


@pytest.mark.parametrize(
    "reply",
    [
        error(401, "invalid_authentication_error"),
        error(402),
        error(403, "access_terminated_error"),
        error(429, "exceeded_current_quota_error"),
        RATE,
    ],
)
async def test_a_credentials_own_trouble_goes_to_its_sibling_at_once(
    desk: MakeDesk, reply: Reply
) -> None:
    at = desk(THREE, a=[reply])
    answer = await at.opened()
    assert at.providers.asked == ["a", "b"]
    assert not answer.fallback


async def test_a_model_that_is_gone_goes_to_the_next_model_at_once(desk: MakeDesk) -> None:
    at = desk(THREE, a=[error(404, "resource_not_found_error")])
    assert (await at.opened()).fallback
    assert at.providers.asked == ["a", "f"]


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, "invalid_request_error", "reasoning_content is missing"),
        (400, "invalid_request_error", "maximum context length is 8192"),
        (422, "", "unprocessable"),
        (413, "request_too_large", ""),
    ],
)
async def test_what_is_the_requests_own_fault_is_never_tried_again(
    desk: MakeDesk, status: int, kind: str, message: str
) -> None:
    at = desk(THREE, a=[error(status, kind, message)])
    refused = await at.refused()
    assert at.providers.asked == ["a"]
    assert refused.failure.status == status
    assert message in refused.failure.message
    at.providers.asked.clear()
    await at.opened()
    assert at.providers.asked == ["a"]  # and nobody rests for it


async def test_a_fallbacks_complaint_does_not_hide_that_the_first_was_down(desk: MakeDesk) -> None:
    at = desk(THREE, a=[DOWN], b=[DOWN], f=[error(400, "invalid_request_error", "odd")])
    refused = await at.refused(max_retries=0)
    assert refused.failure.status == 500


async def test_when_all_fail_the_error_lists_who_was_tried(desk: MakeDesk) -> None:
    at = desk(THREE, a=[DOWN], b=[DOWN], f=[DOWN])
    refused = await at.refused(max_retries=0)
    assert "openai/x" in refused.failure.message
    assert "deepseek/y" in refused.failure.message
    assert [a.level for a in refused.attempts] == [0, 0, 1]
    assert refused.headers["x-nanokimi-fallback"] == "true"


async def test_a_failure_that_passes_is_reported_before_one_that_stays(desk: MakeDesk) -> None:
    at = desk(THREE, a=[error(401)], b=[error(503)], f=[error(401)])
    assert (await at.refused(max_retries=0)).failure.status == 503


# -- before and after the first byte --------------------------------------------------------------

NOTHING = Reply(chunks=())
CUT = Reply(chunks=(), breaks=True)
COMMENTS = Reply(
    chunks=(b": keep-alive\n\n", b"\n"), headers={"content-type": "text/event-stream"}, breaks=True
)
ERROR_EVENT = Reply(
    chunks=(
        b": hi\n\nevent: error\nda",
        b'ta: {"error": {"type": "overloaded_error", "message": "busy"}}\n\n',
    ),
    headers={"content-type": "text/event-stream"},
)
ERROR_BODY = Reply(chunks=(b'{"error": {"mess', b'age": "busy", "type": "server_error"}}'))
REFUSED = httpx.ConnectError("refused")
RESET = httpx.RemoteProtocolError("server disconnected")


@pytest.mark.parametrize(
    "failing",
    [NOTHING, CUT, COMMENTS, ERROR_EVENT, ERROR_BODY, REFUSED, RESET, OSError("reset")],
)
async def test_what_breaks_before_the_first_byte_is_tried_again(
    desk: MakeDesk, failing: Reply | Exception
) -> None:
    at = desk(THREE, a=[failing, failing])
    await at.opened()
    assert at.providers.asked == ["a", "a", "a"]


async def test_after_the_first_byte_nobody_else_is_asked(desk: MakeDesk) -> None:
    at = desk(
        THREE,
        a=[Reply(chunks=(CHUNK,), headers={"content-type": "text/event-stream"}, breaks=True)],
    )
    async with await at.opened() as answer:
        body = answer.body()
        assert await anext(body) == CHUNK
        with pytest.raises(httpx.ReadError):
            await anext(body)
    assert at.providers.asked == ["a"]
    assert at.providers.closed == 1


async def test_every_answer_that_is_not_passed_on_is_closed(desk: MakeDesk) -> None:
    at = desk(THREE, a=[DOWN, CUT, ERROR_EVENT], b=[RATE])
    async with await at.opened(max_retries=2):
        assert at.providers.closed == 4


async def test_a_mistake_of_ours_is_no_providers_fault(desk: MakeDesk) -> None:
    at = desk(THREE, a=[ZeroDivisionError()])
    with pytest.raises(ZeroDivisionError):
        await at.call()
    assert at.providers.asked == ["a"]


# -- waiting --------------------------------------------------------------------------------------


async def test_retry_after_is_waited_out_when_nobody_else_is_there(desk: MakeDesk) -> None:
    at = desk(a=[error(429, "rate_limit_reached_error", retry_after="7")])
    await at.opened()
    assert at.providers.asked == ["a", "a"]
    assert at.clock.slept == [7.0]


async def test_a_long_retry_after_is_passed_on_and_kept_to(desk: MakeDesk) -> None:
    at = desk(a=[error(429, "rate_limit_reached_error", retry_after="120")])
    refused = await at.refused()
    assert (refused.failure.status, refused.failure.retry_after) == (429, 120)
    assert refused.failure.type == "rate_limit_reached_error"
    at.clock.time += 60
    again = await at.refused()
    assert (again.failure.status, again.failure.retry_after) == (429, 60)
    assert at.providers.asked == ["a"]
    at.clock.time += 60
    await at.opened()


async def test_the_soonest_of_several_waits_is_passed_on(desk: MakeDesk) -> None:
    limited = [error(429, "rate_limit_reached_error", retry_after=s) for s in ("90", "45", "200")]
    at = desk(THREE, a=[limited[0]], b=[limited[1]], f=[limited[2]])
    assert (await at.refused()).failure.retry_after == 45
    assert (await at.refused()).failure.retry_after == 45


async def test_who_rests_is_not_asked_until_its_rest_is_over(desk: MakeDesk) -> None:
    at = desk(THREE, a=[RATE])
    await at.opened()
    await at.opened()
    assert at.providers.asked == ["a", "b", "b"]
    at.clock.time += 60
    await at.opened()
    assert at.providers.asked == ["a", "b", "b", "a"]


async def test_when_all_rest_on_our_account_one_is_asked_all_the_same(desk: MakeDesk) -> None:
    at = desk(a=[error(429, "exceeded_current_quota_error"), OK])
    await at.refused()
    await at.opened()  # topped up: no hour of waiting
    await at.opened()
    assert at.providers.asked == ["a", "a", "a"]


async def test_a_host_that_is_down_takes_all_its_credentials_along(desk: MakeDesk) -> None:
    at = desk(THREE, a=[REFUSED] * 9)
    assert (await at.opened(max_retries=0)).fallback
    assert at.providers.asked == ["a", "f"]


async def test_requests_a_minute_are_held_to_for_each_key(desk: MakeDesk) -> None:
    at = desk(entry("a", "openai/x", api_keys='["sk-b"]', rpm="2"))
    for _ in range(4):
        await at.opened()
    assert sorted(at.providers.asked) == ["a", "a", "b", "b"]
    refused = await at.refused()
    assert refused.failure.status == 429
    assert refused.failure.retry_after == 30
    at.clock.time += 30
    await at.opened()


# -- time -----------------------------------------------------------------------------------------


async def test_one_that_does_not_answer_in_its_time_is_left_for_the_next(desk: MakeDesk) -> None:
    text = entry("a", "openai/x", request_timeout='"50ms"', fallbacks='["f"]') + entry(
        "f", "deepseek/y", api_key='"sk-f"'
    )
    for silent in (None, Reply(chunks=(), hangs=True)):
        at = desk(text, a=[silent])
        assert (await at.opened()).fallback
        assert at.providers.asked == ["a", "f"]
        assert at.providers.hangs_up.is_set()


async def test_the_deadline_is_over_all_attempts(desk: MakeDesk) -> None:
    at = desk(THREE, a=[DOWN] * 99, b=[DOWN] * 99, f=[DOWN] * 99)
    refused = await at.refused(max_retries=20, deadline=10.0)
    assert sum(at.clock.slept) <= 10
    assert len(at.providers.asked) < 20
    assert refused.failure.status == 500


async def test_who_had_only_what_the_deadline_left_is_not_blamed(desk: MakeDesk) -> None:
    at = desk(a=[None])
    refused = await at.refused(deadline=0.05)
    assert (refused.failure.status, refused.failure.type) == (504, "provider_timeout")
    target = at.plan.candidates[0].target
    assert at.rests.standing(target.key, at.clock.now()).wait == 0


@pytest.mark.parametrize("stage", [None, Reply(chunks=(), hangs=True)])
async def test_a_client_that_leaves_ends_the_upstreams_work(
    desk: MakeDesk, stage: Reply | None
) -> None:
    at = desk(THREE, a=[stage])
    calling = asyncio.create_task(at.call())
    await asyncio.wait_for(at.providers.hanging.wait(), 10)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert at.providers.hangs_up.is_set()
    assert at.providers.closed == (0 if stage is None else 1)
    assert at.rests.standing(at.plan.candidates[0].target.key, at.clock.now()).wait == 0


async def test_a_client_that_leaves_gives_the_probe_back(desk: MakeDesk) -> None:
    at = desk(THREE, a=[DOWN, None, OK])
    await at.opened(max_retries=0)
    at.clock.time += 60
    calling = asyncio.create_task(at.call())
    await asyncio.wait_for(at.providers.hanging.wait(), 10)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await at.opened()
    assert at.providers.asked == ["a", "b", "a", "a"]


# -- logins ---------------------------------------------------------------------------------------


async def test_a_refused_token_of_a_login_is_renewed_once(desk: MakeDesk) -> None:
    at = desk("", name="kimi", login=[error(401), OK])
    await at.opened(max_retries=0)
    assert [ask.renew for ask in at.providers.asks] == [False, True]
    at = desk("", name="kimi", login=[error(500), error(401), error(401)])
    refused = await at.refused(max_retries=5)
    assert refused.failure.status == 401
    assert [ask.renew for ask in at.providers.asks] == [False, False, True]


async def test_a_key_that_is_refused_is_not_tried_again(desk: MakeDesk) -> None:
    at = desk(a=[error(401)])
    assert (await at.refused()).failure.status == 401
    assert at.providers.asked == ["a"]


async def test_a_lost_login_says_so_and_works_again_after_the_next_one(desk: MakeDesk) -> None:
    lost = LoginRequiredError("the login is lost", hint="run `nanokimi login`")
    at = desk("", name="kimi", login=[lost])
    refused = await at.refused()
    assert (refused.failure.status, refused.failure.type) == (401, "login_required")
    assert "nanokimi login" in refused.failure.message
    await at.opened()


async def test_an_oauth_server_that_is_down_is_waited_for(desk: MakeDesk) -> None:
    at = desk("", name="kimi", login=[TemporaryError("no answer", retry_after=3.0)])
    await at.opened()
    assert at.clock.slept == [3.0]
