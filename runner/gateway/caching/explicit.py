"""Caches made, used, renewed and deleted. Whatever goes wrong here, the call goes on without.

A cache is created beside the first call that could use it, never before: nobody waits for it. From
then on each call that begins with the same bytes names it, and so renews it. It is deleted when no
conversation needs it any more, or when the last worker ends; what a crash left behind is deleted
by the first worker of the next start.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import msgspec
import structlog

from runner.errors import NanokimiError
from runner.gateway.asking import close as close_answer
from runner.gateway.caching.prefix import (
    Place,
    Prefix,
    address_of,
    family_of,
    key_of,
    prefix_of,
)
from runner.gateway.caching.provider import TTL, Blame, Cache, CachingRefused, Caller, Rest, Status
from runner.gateway.caching.records import Presence, Record, Records
from runner.gateway.caching.references import References
from runner.gateway.formats import Json
from runner.gateway.opening import Answer
from runner.gateway.state import StateStore
from runner.gateway.targets import Credential, Target
from runner.settings.models import ModelFacts

log = structlog.get_logger(__name__)

USE_HEADER = "X-Msh-Context-Cache"
RESET_HEADER = "X-Msh-Context-Cache-Reset-TTL"
EXPIRES_HEADER = "msh-context-cache-token-exp"

READY_DEADLINE = 60.0
FINISH_DEADLINE = 2.0
DELETE_DEADLINE = 5.0
MAX_TASKS = 64
MAX_RESTS = 1_000
MAX_PROVEN = 10_000
_POLL = 0.2
_MAX_POLL = 2.0
_NEVER_HIT_REST = 3600.0
_MAX_ERROR = 64 * 1024
# What became of a cache that failed, or could not be reached, and of the creation with it.
_FAILED_REST = Rest(Blame.CONTENT, 600.0)
_UNREACHED_REST = Rest(Blame.ADDRESS, 60.0)

Post = Callable[[Mapping[str, str]], Awaitable[Answer]]
"""Sends the request with these headers more."""
TokenOf = Callable[[Credential], Awaitable[str]]
ClientOf = Callable[[str], httpx.AsyncClient]


@dataclass(frozen=True, slots=True)
class Wish:
    """A call that may use a cache. ``request`` is what will be sent, as it will be sent."""

    target: Target
    token: str = field(repr=False)
    request: Json = field(repr=False)
    conversation: str
    hosts: tuple[str, ...]
    facts: ModelFacts | None = None


@dataclass(frozen=True, slots=True)
class _Use:
    key: str
    id: str
    headers: Mapping[str, str]


class ExplicitCaching:
    """One for a worker; workers share ``state`` and ``lock``. Needs no lock: one event loop.

    Args:
        state: where ids are kept.
        token_of: gives the token of a credential, for deletions.
        client: gives the HTTP client for a proxy, ``""`` for none.
        lock: a file by which workers know of each other, ``None`` for a single one.
        clock: Unix seconds.
    """

    def __init__(
        self,
        state: StateStore,
        token_of: TokenOf,
        client: ClientOf,
        *,
        lock: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._worker = uuid.uuid4().hex
        self._records = Records(state, self._worker)
        self._references = References()
        self._presence = Presence(lock)
        self._token_of = token_of
        self._client = client
        self._clock = clock
        self._targets: dict[tuple[str, str], Target] = {}
        self._rests: OrderedDict[str, float] = OrderedDict()
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self, targets: Iterable[Target], hosts: tuple[str, ...]) -> None:
        """Begin. The first worker deletes what a crash has left, without letting anybody wait.

        ``targets`` lend their credentials for that.
        """
        for target in targets:
            if address := address_of(target.base_url, hosts):
                self._targets[address, target.credential.fingerprint] = target
        if await self._presence.enter():
            self._records.doom_all()
        self._presence.settle()
        if self._records.doomed():
            self._start(self._sweep(), "delete left caches")

    async def close(self) -> None:
        """End. The last worker deletes all caches; takes at most a few seconds."""
        self._closed = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=FINISH_DEADLINE)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        if self._presence.leave():
            self._records.doom_all()
        else:
            self._records.leave_all()
        try:
            await self._sweep()
        finally:
            self._presence.close()

    def forget(self, scope: str) -> None:
        """A group is gone: caches that only its conversations used are deleted."""
        self._leave(self._references.forget(f"{scope}\n"))

    async def settled(self) -> None:
        """Return when nothing is being created or deleted."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def send(self, wish: Wish, post: Post) -> Answer:
        """Send a call, by a cache if there is one; once more without it if the id is not known.

        Raises: what ``post`` raises.
        """
        use = self._prepare(wish)
        if use is None:
            return await post({})
        answer = await post(use.headers)
        try:
            answer, suspect = await _examined(answer)
        except BaseException:
            await close_answer(answer)
            raise
        if not suspect:
            if 200 <= answer.status < 300:
                self._used(use, answer)
            return answer
        await close_answer(answer)
        again = await post({})
        if again.status != answer.status:  # else it was not about the cache
            self._lost(use)
        return again

    # -- before a call --------------------------------------------------------------------------

    def _prepare(self, wish: Wish) -> _Use | None:
        """Find the cache of this request; without one, begin to create it."""
        address = address_of(wish.target.base_url, wish.hosts)
        prefix = prefix_of(wish.request)
        if self._closed or address is None or prefix is None:
            return None
        fingerprint = wish.target.credential.fingerprint
        place = Place(address, fingerprint, family_of(wish.target.model, wish.facts))
        self._targets[address, fingerprint] = wish.target
        key, now = key_of(place, prefix), self._clock()
        slot = f"{wish.conversation}\n{address} {fingerprint} {place.family}"
        self._leave(self._references.use(slot, key))
        record = self._records.find(key)
        if record is None or not record.usable(now):
            self._begin(key, place, prefix, wish)
            return None
        log.debug("cache.request_prepared", conversation=wish.conversation, cache=record.id)
        headers = {USE_HEADER: record.id, RESET_HEADER: str(TTL)}
        for name, value in headers.items():
            log.debug("cache.header_set", header=name, value=value)
        return _Use(key, record.id, headers)

    def _begin(self, key: str, place: Place, prefix: Prefix, wish: Wish) -> None:
        """Create it in the background, unless somebody does, or it was refused lately."""
        now = self._clock()
        if len(self._tasks) >= MAX_TASKS or self._rests_now(key, place, now):
            return
        claim = Record(place.address, place.fingerprint, now + READY_DEADLINE)
        if self._records.claim(key, claim, now):
            work = self._create(key, place, prefix, wish)
            self._start(work, "create a cache")

    # -- after a call ---------------------------------------------------------------------------

    def _used(self, use: _Use, answer: Answer) -> None:
        self._proven[use.id] = None
        if len(self._proven) > MAX_PROVEN:
            self._proven.popitem(last=False)
        self._records.extend(use.key, use.id, self._end(answer.headers.get(EXPIRES_HEADER)))

    def _end(self, said: str | float | None) -> float:
        """When a cache ends that was made or used just now; a time that makes no sense is none."""
        now = self._clock()
        try:
            end = float(said or 0)
        except ValueError:
            end = 0.0
        return end if now < end <= now + TTL else now + TTL

    def _lost(self, use: _Use) -> None:
        log.debug("cache.lost", cache=use.id)
        self._records.drop(use.key, use.id)
        if use.id not in self._proven:  # never of any use: do not pay for another one at once
            self._rest(use.key, _NEVER_HIT_REST)

    def _leave(self, keys: list[str]) -> None:
        for key in keys:
            self._records.leave(key)
        if keys and not self._closed and self._records.doomed():
            self._start(self._sweep(), "delete caches")

    # -- creating and deleting ------------------------------------------------------------------

    async def _create(self, key: str, place: Place, prefix: Prefix, wish: Wish) -> None:
        record = Record(place.address, place.fingerprint, 0.0, workers=(self._worker,))
        api = self._caller(wish.target, place.address, wish.token)
        problem: Rest | None = None
        try:
            async with asyncio.timeout(READY_DEADLINE):
                made = await api.create(place.family, prefix)
                record = self._keep(key, record, made)
                record = self._keep(key, record, await self._until_done(api, made))
            if record.ready:
                log.debug("cache.created", conversation=wish.conversation, cache=record.id)
            else:
                problem = _FAILED_REST
        except CachingRefused as e:
            log.debug("cache.refused", address=place.address, status=e.status)
            problem = e.rest if not record.id else _FAILED_REST
        except (httpx.HTTPError, OSError) as e:  # a deadline is an OSError
            log.debug("cache.unreachable", address=place.address, error=type(e).__name__)
            problem = _UNREACHED_REST
        finally:
            if not record.ready:
                self._give_up(key, record)
        if problem is not None:
            blamed = _name(problem.blame, key, place)
            self._rest(blamed, problem.seconds)
            await self._sweep()

    def _keep(self, key: str, record: Record, made: Cache) -> Record:
        """On record before it is used, so that it is deleted whatever happens."""
        kept = msgspec.structs.replace(
            record, id=made.id, ready=made.status is Status.READY, until=self._end(made.expires)
        )
        self._records.put(key, kept)
        return kept

    async def _until_done(self, api: Caller, made: Cache) -> Cache:
        wait = _POLL
        while made.status is Status.PENDING:
            await asyncio.sleep(wait)
            wait = min(wait * 2, _MAX_POLL)
            made = replace(await api.look(made.id), id=made.id)
        return made

    def _give_up(self, key: str, record: Record) -> None:
        if record.id:
            self._records.doom(record)
        self._records.drop(key, record.id)

    async def _sweep(self) -> None:
        """Delete what is doomed. What cannot be deleted now is for the next start."""
        work = [self._delete(record) for record in self._records.doomed()]
        if not work:
            return
        try:
            async with asyncio.timeout(DELETE_DEADLINE):
                await asyncio.gather(*work)
        except TimeoutError:
            log.debug("cache.not_deleted", caches=len(self._records.doomed()))

    async def _delete(self, record: Record) -> None:
        target = self._targets.get((record.address, record.fingerprint))
        if record.until <= self._clock():
            self._records.deleted(record.id)  # by the provider itself
            return
        if target is None:
            log.debug("cache.not_deleted", cache=record.id, reason="its credential is gone")
            return
        try:
            token = await self._token_of(target.credential)
            await self._caller(target, record.address, token).delete(record.id)
        except (CachingRefused, NanokimiError, httpx.HTTPError, OSError) as e:
            log.debug("cache.not_deleted", cache=record.id, reason=type(e).__name__)
            return
        log.debug("cache.deleted", cache=record.id)
        self._records.deleted(record.id)

    def _caller(self, target: Target, address: str, token: str) -> Caller:
        headers = {"user-agent": target.user_agent, **target.headers}
        return Caller(self._client(target.proxy), address, token, headers)

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what is left alone ---------------------------------------------------------------------

    def _rest(self, name: str, seconds: float) -> None:
        self._rests[name] = self._clock() + seconds
        self._rests.move_to_end(name)
        if len(self._rests) > MAX_RESTS:
            self._rests.popitem(last=False)

    def _rests_now(self, key: str, place: Place, now: float) -> bool:
        names = [_name(blame, key, place) for blame in Blame]
        return any(self._rests.get(name, 0.0) > now for name in names)


def _name(blame: Blame, key: str, place: Place) -> str:
    match blame:
        case Blame.ADDRESS:
            return place.address
        case Blame.CREDENTIAL:
            return f"{place.address} {place.fingerprint}"
        case Blame.CONTENT:
            return key


async def _examined(answer: Answer) -> tuple[Answer, bool]:
    """The answer, not a byte of it lost, and whether it may mean that the cache is not known."""
    if answer.status in (404, 410):
        return answer, True
    if answer.status != 400:
        return answer, False
    read = b""
    async for chunk in answer.body:
        read += chunk
        if len(read) >= _MAX_ERROR:
            break
    return replace(answer, body=_whole(read, answer.body)), b"cache" in read.lower()


async def _whole(read: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield read
    async for chunk in rest:
        yield chunk
