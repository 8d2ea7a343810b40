"""The one place that carries a plan out: who is asked, how often, and who is asked instead.

Everything that can be tried again is tried before the first byte of an answer. From then on the
answer is what it is: a stream that breaks is reported, never continued by somebody else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from runner.gateway.asking import Ask as Ask
from runner.gateway.asking import Attempt as Attempt
from runner.gateway.asking import Clock as Clock
from runner.gateway.asking import Opened as Opened
from runner.gateway.asking import Policy as Policy
from runner.gateway.asking import Refused as Refused
from runner.gateway.asking import Send as Send
from runner.gateway.asking import SystemClock as SystemClock
from runner.gateway.asking import close
from runner.gateway.failure import (
    LOGIN_TYPE,
    PASSING,
    TIMEOUT_TYPE,
    GatewayFailure,
    Next,
    Reason,
    Verdict,
    classify,
)
from runner.gateway.opening import Answer, AnswerFailed, first_bytes, transport_failure
from runner.gateway.rests import Rests
from runner.gateway.routing import Candidate, Plan
from runner.gateway.targets import Target

log = structlog.get_logger(__name__)

FIRST_WAIT = 0.5
MAX_WAIT = 30.0
"""A wish to wait longer than this is passed on to the client instead of waited out."""
MAX_ATTEMPTS = 32


async def call(
    plan: Plan,
    send: Send,
    clock: Clock,
    rests: Rests,
    *,
    policy: Policy | None = None,
    group: str = "",
    jitter: Callable[[], float] = random.random,
) -> Opened | Refused:
    """Try the candidates of a plan in order until one begins to answer.

    Cancelling this (the client is gone) cancels what is under way at the provider, and the
    candidate is not blamed.

    Args:
        group: whose share of a key's requests a minute is used.
        jitter: gives 0 to 1, and spreads the waits between tries.
    """
    return await _Call(plan, send, clock, rests, policy or Policy(), group, jitter).run()


@dataclass(frozen=True, slots=True)
class _Failed:
    """``blamed``: it is the candidate's fault, and not that of our own deadline."""

    failure: GatewayFailure
    verdict: Verdict
    level: int
    blamed: bool = True


class _Call:
    def __init__(
        self,
        plan: Plan,
        send: Send,
        clock: Clock,
        rests: Rests,
        policy: Policy,
        group: str,
        jitter: Callable[[], float],
    ) -> None:
        self._plan = plan
        self._send = send
        self._clock = clock
        self._rests = rests
        self._policy = policy
        self._group = group
        self._jitter = jitter
        self._ends = clock.monotonic() + policy.deadline
        self._attempts: list[Attempt] = []
        self._failures: list[_Failed] = []
        self._waits: list[float] = []

    async def run(self) -> Opened | Refused:
        forced = self._nobody_is_free()
        gone: set[tuple[str, str]] = set()  # models that an endpoint does not serve
        for index, candidate in enumerate(self._plan.candidates):
            model = (candidate.target.base_url, candidate.target.model)
            if model in gone:
                continue
            if self._left() <= 0 or len(self._attempts) >= MAX_ATTEMPTS:
                break
            if not self._may_ask(candidate, forced):
                continue
            outcome = await self._ask_patiently(candidate, index, forced=forced)
            if isinstance(outcome, Opened):
                return outcome
            self._failures.append(outcome)
            if outcome.verdict.next is Next.GIVE_UP:
                break
            if outcome.verdict.next is Next.NEXT_MODEL:
                gone.add(model)
        return self._refused()

    # -- who may be asked -----------------------------------------------------------------------

    def _nobody_is_free(self) -> bool:
        """All rest: then one that rests on our own account is better than no answer."""
        now = self._clock.now()
        return all(self._rests.standing(c.target.key, now).wait > 0 for c in self._plan.candidates)

    def _may_ask(self, candidate: Candidate, forced: bool) -> bool:
        target, now = candidate.target, self._clock.now()
        standing = self._rests.standing(target.key, now)
        if standing.wait > 0 and (standing.firm or not forced):
            self._waits.append(standing.wait)
            return False
        if not self._take(target, now):
            return False
        if not self._rests.enter(target.key, now, force=forced):
            self._waits.append(FIRST_WAIT)  # another caller is its probe
            return False
        return True

    def _take(self, target: Target, now: float) -> bool:
        """Each request counts against the key's requests a minute."""
        if target.rpm is None:
            return True
        wait = self._rests.take(target.key, target.rpm, self._group, now)
        if wait > 0:
            self._waits.append(wait)
        return wait == 0

    def _has_other(self, index: int) -> bool:
        now = self._clock.now()
        rest = self._plan.candidates[index + 1 :]
        return any(self._rests.standing(c.target.key, now).wait == 0 for c in rest)

    def _left(self) -> float:
        return self._ends - self._clock.monotonic()

    # -- one candidate --------------------------------------------------------------------------

    async def _ask_patiently(
        self, candidate: Candidate, index: int, *, forced: bool
    ) -> Opened | _Failed:
        """Ask one candidate, again while that is allowed; then it rests."""
        target = candidate.target
        began = self._clock.now()
        try:
            return await self._ask_again_and_again(candidate, index, began, forced=forced)
        except BaseException:  # the client is gone, or the mistake is ours
            self._rests.abandoned(target.key, self._clock.now())
            raise

    async def _ask_again_and_again(
        self, candidate: Candidate, index: int, began: float, *, forced: bool
    ) -> Opened | _Failed:
        target = candidate.target
        retries = 0 if forced else self._policy.max_retries
        tried = 0
        renewed = renew = False
        while True:
            started = self._clock.now()
            outcome = await self._ask(candidate, renew=renew)
            if isinstance(outcome, Opened):
                self._rests.succeeded(target.key, self._clock.now(), started=started)
                return outcome
            renew = not renewed and self._token_is_stale(outcome, target)
            if renew:
                renewed = True
                continue
            wait = self._wait_before_retry(outcome.verdict, tried, index)
            if tried >= retries or wait is None or len(self._attempts) >= MAX_ATTEMPTS:
                return self._given_up(target, outcome, began)
            tried += 1
            await self._clock.sleep(wait)
            if not self._take(target, self._clock.now()):
                return self._given_up(target, outcome, began)

    def _given_up(self, target: Target, outcome: _Failed, began: float) -> _Failed:
        """Let it rest. Calls that failed side by side with this one count as one failure."""
        now = self._clock.now()
        if outcome.blamed:
            self._rests.failed(
                target.key, outcome.verdict, now, started=began, seconds=target.cooldown
            )
        else:
            self._rests.abandoned(target.key, now)
        return outcome

    def _token_is_stale(self, outcome: _Failed, target: Target) -> bool:
        """A login's access token may have been revoked early: one renewal, one more try."""
        failure = outcome.failure
        refused = failure.status == 401 and failure.type != LOGIN_TYPE
        return refused and target.credential.oauth is not None and self._left() > 0

    def _wait_before_retry(self, verdict: Verdict, tried: int, index: int) -> float | None:
        """Seconds until the same candidate is asked again; ``None``: it is not."""
        again = verdict.next is Next.RETRY_SAME
        if verdict.reason in (Reason.RATE_LIMIT, Reason.TIMEOUT):
            again = not self._has_other(index)
        if not again:
            return None
        wait = FIRST_WAIT * self._policy.backoff_factor**tried * (0.75 + self._jitter() / 2)
        wait = min(wait, MAX_WAIT) if verdict.retry_after is None else verdict.retry_after
        return wait if wait <= MAX_WAIT and wait < self._left() else None

    async def _ask(self, candidate: Candidate, *, renew: bool) -> Opened | _Failed:
        target = candidate.target
        left = self._left()
        patience = min(target.request_timeout, left)
        answer: Answer | None = None
        headers: Mapping[str, str] = {}
        try:
            async with asyncio.timeout(patience):
                answer = await self._send(Ask(target, len(self._attempts) + 1, renew))
                headers = answer.headers
                first = await first_bytes(answer)
        except TimeoutError:
            failure = GatewayFailure(
                504, TIMEOUT_TYPE, f"{target.provider} did not answer in {patience:.3g} s"
            )
        except AnswerFailed as e:
            failure = e.failure
        except asyncio.CancelledError:
            if answer is not None:
                await close(answer)
            raise
        except Exception as e:
            if answer is not None:
                await close(answer)
            known = transport_failure(e, target.provider)
            if known is None:
                raise
            answer, failure = None, known
        else:
            self._note(candidate, "", answer.status)
            return Opened(target, answer, tuple(self._attempts), candidate.level > 0, first)
        if answer is not None:
            await close(answer)
        verdict = classify(failure.status, failure.type, failure.message, headers, target.kind)
        if failure.retry_after is not None and verdict.retry_after is None and verdict.scope:
            verdict = replace(verdict, retry_after=failure.retry_after)
        self._note(candidate, verdict.reason.value, failure.status)
        ours = verdict.reason is Reason.TIMEOUT and left < target.request_timeout
        return _Failed(failure, verdict, candidate.level, blamed=not ours)

    def _note(self, candidate: Candidate, reason: str, status: int) -> None:
        self._attempts.append(Attempt(candidate.target, candidate.level, reason, status))
        if reason:
            log.info(
                "call.attempt_failed",
                provider=candidate.target.provider,
                model=candidate.target.model,
                reason=reason,
                status=status,
                attempt=len(self._attempts),
            )

    # -- nobody answered ------------------------------------------------------------------------

    def _refused(self) -> Refused:
        """The failure that says the most.

        That is: the request's own fault at the model that was asked for, one that passes, the
        request's fault at a fallback, or else the first.
        """
        chosen = self._first(lambda f: f.verdict.next is Next.GIVE_UP and f.level == 0)
        chosen = chosen or self._first(lambda f: f.verdict.reason in PASSING)
        chosen = chosen or self._first(lambda f: f.verdict.next is Next.GIVE_UP)
        if chosen is None and self._waits:
            return Refused(self._all_wait(), tuple(self._attempts))
        if chosen is None and self._failures:
            chosen = self._failures[0]
        if chosen is None:
            text = "there was no time left to ask anybody"
            return Refused(GatewayFailure(504, TIMEOUT_TYPE, text), tuple(self._attempts))
        failure = replace(chosen.failure, retry_after=self._retry_after(chosen.verdict))
        names = [f"{a.target.provider}/{a.target.model}" for a in self._attempts]
        tried = list(dict.fromkeys(names))
        if len(tried) > 1 and chosen.verdict.next is not Next.GIVE_UP:
            text = f"{failure.message} (nobody answered; tried: {', '.join(tried)})"
            failure = replace(failure, message=text)
        return Refused(failure, tuple(self._attempts), chosen.verdict)

    def _first(self, fits: Callable[[_Failed], bool]) -> _Failed | None:
        return next((failed for failed in self._failures if fits(failed)), None)

    def _all_wait(self) -> GatewayFailure:
        names = dict.fromkeys(c.target.provider for c in self._plan.candidates)
        text = f"everybody who could answer has to wait: {', '.join(names)}"
        return GatewayFailure(429, "rate_limit_error", text, min(self._waits))

    def _retry_after(self, verdict: Verdict) -> float | None:
        """When somebody may be free again, if a provider named a time."""
        if verdict.scope is None:
            return None
        wishes = [f.verdict.retry_after for f in self._failures]
        named = [wish for wish in wishes if wish is not None]
        return min((*named, *self._waits)) if named else None
