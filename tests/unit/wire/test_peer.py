from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import ProtocolError, SandboxGoneError
from runner.wire import rpc
from runner.wire.peer import MAX_OPEN_REQUESTS, Budget, Peer, Rejection

from .streams import PATIENCE, MemoryChannel, pair

Handler = Callable[[str, msgspec.Raw], Awaitable[object]]


class Ping(msgspec.Struct):
    text: str


async def echo(method: str, params: msgspec.Raw) -> object:
    return {"method": method, "text": msgspec.json.decode(params, type=Ping).text}


async def refuse(method: str, params: msgspec.Raw) -> object:
    raise Rejection(rpc.METHOD_NOT_FOUND, f"no {method}", {"why": "test"})


def ignore(method: str, params: msgspec.Raw) -> None:
    pass


class Ends:
    """A peer of ours under test, and the raw end that plays the other side."""

    def __init__(self, peer: Peer, run: asyncio.Task[None], raw: MemoryChannel) -> None:
        self.peer, self.running, self.raw = peer, run, raw

    async def line(self) -> dict[str, object]:
        """The next line that our peer wrote."""
        async with asyncio.timeout(PATIENCE):
            frame: dict[str, object] = msgspec.json.decode(await self.raw.read())
            return frame

    async def outcome(self) -> BaseException | None:
        """How :meth:`Peer.run` ended."""
        async with asyncio.timeout(PATIENCE):
            with suppress(Exception):
                await self.running
        return self.running.exception()


@asynccontextmanager
async def against_raw(
    on_request: Handler = refuse,
    on_notification: Callable[[str, msgspec.Raw], None] = ignore,
    *,
    budget: Budget | None = None,
    max_line: int = 100_000,
) -> AsyncIterator[Ends]:
    ours, raw = pair()
    peer = Peer(
        ours,
        on_request=on_request,
        on_notification=on_notification,
        budget=budget,
        max_line=max_line,
    )
    task = asyncio.create_task(peer.run())
    try:
        yield Ends(peer, task, raw)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def two_peers(handler: Handler, split: int = 0) -> AsyncIterator[tuple[Peer, Peer]]:
    left, right = pair(split)
    a = Peer(left, on_request=refuse, on_notification=ignore)
    b = Peer(right, on_request=handler, on_notification=ignore)
    tasks = [asyncio.create_task(p.run()) for p in (a, b)]
    try:
        yield a, b
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("split", [0, 1, 7])
async def test_a_request_is_answered_however_the_bytes_are_split(split: int) -> None:
    async with two_peers(echo, split) as (a, _):
        got = await a.request("x", {"text": "hällo\n🦊"}, dict, timeout=PATIENCE)
    assert got == {"method": "x", "text": "hällo\n🦊"}


async def test_many_requests_at_once_get_each_their_own_answer() -> None:
    async with two_peers(echo) as (a, _):
        answers = await asyncio.gather(
            *(a.request("x", {"text": str(n)}, Ping, timeout=PATIENCE) for n in range(50))
        )
    assert [p.text for p in answers] == [str(n) for n in range(50)]


async def test_answers_may_come_in_any_order() -> None:
    first_may_go = asyncio.Event()

    async def slow_first(method: str, params: msgspec.Raw) -> object:
        if method == "first":
            await first_may_go.wait()
        return {"text": method}

    async with two_peers(slow_first) as (a, _):
        first = asyncio.create_task(a.request("first", {}, Ping, timeout=PATIENCE))
        second = await a.request("second", {}, Ping, timeout=PATIENCE)
        assert not first.done()
        first_may_go.set()
        assert ((await first).text, second.text) == ("first", "second")


async def test_a_rejection_arrives_as_an_error_with_its_data() -> None:
    async with two_peers(refuse) as (a, _):
        with pytest.raises(rpc.RemoteError) as caught:
            await a.request("x", {}, dict, timeout=PATIENCE)
    assert caught.value.error == rpc.RpcError(rpc.METHOD_NOT_FOUND, "no x", {"why": "test"})


async def test_wrong_params_are_answered_with_invalid_params() -> None:
    async with two_peers(echo) as (a, _):
        with pytest.raises(rpc.RemoteError) as caught:
            await a.request("x", {"text": 3}, dict, timeout=PATIENCE)
    assert caught.value.error.code == rpc.INVALID_PARAMS


async def test_a_bug_in_a_handler_answers_and_is_not_hidden() -> None:
    seen: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: seen.append(c["exception"]))

    async def buggy(method: str, params: msgspec.Raw) -> object:
        raise KeyError("a secret detail")

    async with two_peers(buggy) as (a, _):
        with pytest.raises(rpc.RemoteError) as caught:
            await a.request("x", {}, dict, timeout=PATIENCE)
        assert caught.value.error == rpc.RpcError(rpc.INTERNAL_ERROR, "internal error")
    assert [type(e) for e in seen] == [KeyError]


async def test_notifications_are_handled_in_order() -> None:
    seen: asyncio.Queue[str] = asyncio.Queue(maxsize=10)
    async with against_raw(on_notification=lambda m, _: seen.put_nowait(m)) as ends:
        await ends.raw.send_raw(*(b'{"jsonrpc":"2.0","method":"%d"}' % n for n in range(5)))
        async with asyncio.timeout(PATIENCE):
            assert [await seen.get() for _ in range(5)] == ["0", "1", "2", "3", "4"]


async def test_an_answer_to_a_request_that_was_never_made_ends_the_connection() -> None:
    async with against_raw() as ends:
        await ends.raw.send_raw(b'{"jsonrpc":"2.0","id":1,"result":{}}')
        error = await ends.outcome()
    assert isinstance(error, ProtocolError)
    assert error.code == "protocol_unknown_id"


async def test_an_id_of_another_type_is_another_id() -> None:
    async with against_raw() as ends:
        asking = asyncio.create_task(ends.peer.request("x", {}, dict, timeout=PATIENCE))
        assert (await ends.line())["id"] == 1
        await ends.raw.send_raw(b'{"jsonrpc":"2.0","id":"1","result":{}}')
        with pytest.raises(ProtocolError, match="never made"):
            await asking


async def test_a_second_answer_to_one_request_ends_the_connection() -> None:
    async with against_raw() as ends:
        asking = asyncio.create_task(ends.peer.request("x", {}, dict, timeout=PATIENCE))
        await ends.line()
        answer = b'{"jsonrpc":"2.0","id":1,"result":{"n":1}}'
        await ends.raw.send_raw(answer)
        assert await asking == {"n": 1}
        await ends.raw.send_raw(answer)
        assert isinstance(await ends.outcome(), ProtocolError)


async def test_a_late_answer_to_an_abandoned_request_is_ignored() -> None:
    async with against_raw() as ends:
        with pytest.raises(TimeoutError):
            await ends.peer.request("slow", {}, dict, timeout=0)
        asking = asyncio.create_task(ends.peer.request("next", {}, dict, timeout=PATIENCE))
        frames = [await ends.line(), await ends.line()]
        assert [f["method"] for f in frames] == ["slow", "next"]
        await ends.raw.send_raw(
            b'{"jsonrpc":"2.0","id":1,"result":{}}', b'{"jsonrpc":"2.0","id":2,"result":{"n":2}}'
        )
        assert await asking == {"n": 2}


async def test_a_cancelled_request_is_abandoned_as_well() -> None:
    async with against_raw() as ends:
        asking = asyncio.create_task(ends.peer.request("slow", {}, dict, timeout=None))
        await ends.line()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        again = asyncio.create_task(ends.peer.request("next", {}, dict, timeout=PATIENCE))
        await ends.line()
        await ends.raw.send_raw(
            b'{"jsonrpc":"2.0","id":1,"result":{}}', b'{"jsonrpc":"2.0","id":2,"result":{}}'
        )
        assert await again == {}


async def test_a_sender_that_gives_up_in_mid_line_leaves_no_half_line() -> None:
    left, right = pair(split=5)
    seen: asyncio.Queue[str] = asyncio.Queue(maxsize=10)
    a = Peer(left, on_request=refuse, on_notification=ignore)
    b = Peer(right, on_request=refuse, on_notification=lambda m, _: seen.put_nowait(m))
    reading = asyncio.create_task(b.run())
    left.gate.clear()
    sending = asyncio.create_task(a.notify("first", {}))
    while not a._writes:
        await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    left.gate.set()
    await a.notify("second", {})
    async with asyncio.timeout(PATIENCE):
        assert [await seen.get(), await seen.get()] == ["first", "second"]
    assert not reading.done()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_the_end_of_the_stream_fails_open_requests() -> None:
    async with against_raw() as ends:
        asking = asyncio.create_task(ends.peer.request("x", {}, dict, timeout=PATIENCE))
        await ends.line()
        await ends.raw.close()
        with pytest.raises(SandboxGoneError):
            await asking
        assert await ends.outcome() is None
        with pytest.raises(SandboxGoneError):
            await ends.peer.request("y", {}, dict, timeout=PATIENCE)


async def test_a_broken_frame_ends_the_connection_and_fails_open_requests_with_it() -> None:
    async with against_raw() as ends:
        asking = asyncio.create_task(ends.peer.request("x", {}, dict, timeout=PATIENCE))
        await ends.line()
        await ends.raw.send_raw(b"Traceback (most recent call last):")
        with pytest.raises(ProtocolError):
            await asking
        assert isinstance(await ends.outcome(), ProtocolError)


async def test_a_line_over_the_limit_ends_the_connection() -> None:
    async with against_raw(max_line=100) as ends:
        await ends.raw.write(b"x" * 101)
        error = await ends.outcome()
    assert isinstance(error, ProtocolError)
    assert error.code == "protocol_line_too_long"


async def test_a_wrong_answer_is_a_protocol_error_that_names_the_method() -> None:
    async with against_raw() as ends:
        asking = asyncio.create_task(ends.peer.request("hello", {}, Ping, timeout=PATIENCE))
        await ends.line()
        await ends.raw.send_raw(b'{"jsonrpc":"2.0","id":1,"result":{"text":3}}')
        with pytest.raises(ProtocolError, match="a wrong answer to hello"):
            await asking


async def test_a_wrong_notification_is_a_protocol_error() -> None:
    def strict(method: str, params: msgspec.Raw) -> None:
        msgspec.json.decode(params, type=Ping)

    async with against_raw(on_notification=strict) as ends:
        await ends.raw.send_raw(b'{"jsonrpc":"2.0","method":"x","params":{"text":3}}')
        error = await ends.outcome()
    assert isinstance(error, ProtocolError)
    assert error.code == "protocol_bad_frame"


async def test_more_frames_than_the_budget_are_a_flood() -> None:
    async with against_raw(budget=Budget(frames=3, size=10_000)) as ends:
        await ends.raw.send_raw(*[b'{"jsonrpc":"2.0","method":"x"}'] * 4)
        error = await ends.outcome()
    assert isinstance(error, ProtocolError)
    assert error.code == "protocol_flood"


@pytest.mark.parametrize("noise", [b"\n" * 600, b" \r\n" * 200, b"x" * 600])
async def test_more_bytes_than_the_budget_are_a_flood_also_without_a_frame(noise: bytes) -> None:
    async with against_raw(budget=Budget(frames=100, size=500)) as ends:
        await ends.raw.write(noise)
        error = await ends.outcome()
    assert isinstance(error, ProtocolError)
    assert error.code == "protocol_flood"


async def test_a_refilled_budget_starts_anew() -> None:
    budget = Budget(frames=3, size=10_000)
    seen: asyncio.Queue[str] = asyncio.Queue(maxsize=10)
    async with against_raw(budget=budget, on_notification=lambda m, _: seen.put_nowait(m)) as ends:
        for _ in range(3):
            await ends.raw.send_raw(*[b'{"jsonrpc":"2.0","method":"x"}'] * 3)
            async with asyncio.timeout(PATIENCE):
                for _ in range(3):
                    await seen.get()
            budget.refill()
        assert not ends.running.done()


async def test_more_open_requests_than_the_bound_are_a_flood_and_all_are_ended() -> None:
    started, cancelled = 0, 0

    async def forever(method: str, params: msgspec.Raw) -> object:
        nonlocal started, cancelled
        started += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return None

    def request(n: int) -> bytes:
        return b'{"jsonrpc":"2.0","id":%d,"method":"x"}' % n

    async with against_raw(forever) as ends:
        await ends.raw.send_raw(*map(request, range(MAX_OPEN_REQUESTS)))
        while started < MAX_OPEN_REQUESTS:
            await asyncio.sleep(0)
        assert not ends.running.done()
        await ends.raw.send_raw(request(MAX_OPEN_REQUESTS))
        error = await ends.outcome()
        assert isinstance(error, ProtocolError)
        assert error.code == "protocol_flood"
        while cancelled < started:
            await asyncio.sleep(0)


async def test_a_cancelled_peer_fails_its_requests_with_a_reason() -> None:
    async with against_raw() as ends:
        asking = asyncio.create_task(ends.peer.request("x", {}, dict, timeout=PATIENCE))
        await ends.line()
        ends.running.cancel()
        with pytest.raises(SandboxGoneError, match="given up"):
            await asking


@given(st.lists(st.binary(max_size=60), max_size=6))
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise_anything_but_a_protocol_error(chunks: list[bytes]) -> None:
    async def play() -> BaseException | None:
        async with against_raw(echo, budget=Budget(20, 200), max_line=50) as ends:
            for chunk in chunks:
                if chunk and not ends.running.done():
                    await ends.raw.write(chunk)
            await ends.raw.close()
            return await ends.outcome()

    assert isinstance(asyncio.run(play()), ProtocolError | None)
