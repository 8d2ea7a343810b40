import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from runner.calls import DAY, NANO, By, Call, Failure, Outcome, Percentiles, Price, Tokens, UsageRow
from runner.model import Event, Message
from runner.store import Place, Store
from runner.store.ledger import Ledger, Span, days_back

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
ALL = Span(0.0)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = await Store.open(place)
    yield store
    await store.close()


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)


def call(**more: Any) -> Call:
    answered = Call(
        at=NOON,
        outcome=Outcome.OK,
        group="team",
        provider="kimi",
        model="kimi-k3",
        tokens=Tokens(input=100, cached=50, output=20, reasoning=5),
        price=Price(input=3.0, cached=0.3, output=15.0),
        cost=615_000,
        first_byte_ms=100.0,
        total_ms=900.0,
    )
    return replace(answered, **more)


def failed(provider: str = "kimi", **more: Any) -> Call:
    nothing: dict[str, Any] = {"tokens": Tokens(), "cost": None, "first_byte_ms": None}
    return call(outcome=Outcome.FAILED, provider=provider, **{**nothing, **more})


async def test_a_call_is_kept_with_everything_that_was_known(ledger: Ledger, store: Store) -> None:
    tokens = Tokens(1, 2, 3, 4, 5)
    await ledger.write(
        [
            call(
                key="ci",
                route="FAST",
                tokens=tokens,
                fallback=True,
                attempts=2,
                failures=(Failure("claude", "opus", "rate_limit"),),
            )
        ]
    )
    row = dict(await store.read(lambda c: c.execute(text("select * from calls")).mappings().one()))
    failures = await store.read(
        lambda c: [tuple(r) for r in c.execute(text("select provider, model, type from failures"))]
    )
    price = row.pop("price")  # SQLite keeps JSON as text
    assert (json.loads(price) if isinstance(price, str) else price)["input"] == 3.0
    assert row == {
        "seq": 1,
        "at": NOON,
        "day": 20777,
        "group_id": "team",
        "key_name": "ci",
        "route": "FAST",
        "provider": "kimi",
        "model": "kimi-k3",
        "input_tokens": 1,
        "cached_tokens": 2,
        "cache_write_tokens": 3,
        "output_tokens": 4,
        "reasoning_tokens": 5,
        "cost_nano": 615_000,
        "first_byte_ms": 100.0,
        "total_ms": 900.0,
        "outcome": "ok",
        "fallback": 1,
        "attempts": 2,
    }
    assert [tuple(f) for f in failures] == [("claude", "opus", "rate_limit")]


async def test_usage_is_summed_by_group_model_and_day(ledger: Ledger) -> None:
    await ledger.write(
        [
            call(),
            call(),
            call(model="kimi-k2.6", cost=1),
            call(group="other", at=NOON - DAY, cost=5),
        ]
    )
    rows = await ledger.usage((By.GROUP, By.MODEL, By.DAY), ALL)
    assert [(dict(r.by), r.calls, r.cost) for r in rows] == [
        ({By.GROUP: "other", By.MODEL: "kimi-k3", By.DAY: "2026-11-19"}, 1, 5),
        ({By.GROUP: "team", By.MODEL: "kimi-k3", By.DAY: "2026-11-20"}, 2, 1_230_000),
        ({By.GROUP: "team", By.MODEL: "kimi-k2.6", By.DAY: "2026-11-20"}, 1, 1),
    ]
    assert rows[1].tokens == Tokens(
        input=200, cached=100, cache_write=None, output=40, reasoning=10
    )


async def test_a_filter_takes_only_what_it_names(ledger: Ledger) -> None:
    await ledger.write([call(key="ci"), call(group="other"), call(model="m"), call(provider="p")])
    for more in ({"key": "ci"}, {"group": "other"}, {"model": "m"}, {"provider": "p"}):
        assert (await ledger.total(Span(0.0, **more))).calls == 1
    assert (await ledger.total(ALL)).calls == 4
    assert await ledger.usage((By.GROUP,), Span(0.0, group="no such")) == []


async def test_a_day_begins_at_midnight_of_utc(ledger: Ledger) -> None:
    # In the night of a clock change elsewhere; 25 hours there, 24 here.
    midnight = datetime(2026, 10, 25, tzinfo=UTC).timestamp()
    await ledger.write([call(at=midnight - 0.001), call(at=midnight), call(at=midnight + DAY - 1)])
    rows = await ledger.usage((By.DAY,), ALL)
    assert [(r.by[By.DAY], r.calls) for r in rows] == [("2026-10-24", 1), ("2026-10-25", 2)]
    assert days_back(1, midnight) == midnight
    assert days_back(7, midnight + 3600) == midnight - 6 * DAY


async def test_a_span_includes_its_start_and_not_its_end(ledger: Ledger) -> None:
    await ledger.write([call(at=NOON), call(at=NOON + 10)])
    assert (await ledger.total(Span(NOON, NOON + 10))).calls == 1
    assert (await ledger.total(Span(NOON + 10, NOON + 10))).calls == 0
    assert (await ledger.total(Span(NOON + 10, NOON))).calls == 0


async def test_unpriced_calls_and_missing_usage_are_told_apart_and_never_zero(
    ledger: Ledger,
) -> None:
    unpriced = call(cost=None, price=None)
    silent = call(cost=None, tokens=Tokens())
    half = call(cost=None, tokens=Tokens(input=5), outcome=Outcome.CUT)
    await ledger.write([unpriced, silent, half, failed()])
    (row,) = await ledger.usage((), ALL)
    assert (row.calls, row.priced, row.unpriced, row.no_usage) == (4, 0, 1, 2)
    assert row.known_cost is None
    await ledger.write([call()])
    (row,) = await ledger.usage((), ALL)
    assert (row.priced, row.known_cost) == (1, 615_000)


async def test_calls_that_were_refused_or_failed_cost_nothing_and_miss_nothing(
    ledger: Ledger,
) -> None:
    refused = replace(failed(provider=""), outcome=Outcome.REFUSED)
    await ledger.write([refused, failed()])
    row = await ledger.total(ALL)
    assert (row.calls, row.ok, row.unpriced, row.no_usage) == (2, 0, 0, 0)
    assert row.known_cost == 0


async def test_quality_counts_the_attempts_of_each_provider(ledger: Ledger) -> None:
    helped = call(provider="claude", fallback=True, failures=(Failure("kimi", "k", "overloaded"),))
    lost = failed(failures=(Failure("kimi", "k", "timeout"), Failure("claude", "c", "auth")))
    cut = call(outcome=Outcome.CUT, cost=None, tokens=Tokens(input=70))
    gone = call(outcome=Outcome.CANCELLED, cost=None)
    await ledger.write([call(), call(), helped, lost, cut, gone])
    found = {q.provider: q for q in await ledger.quality(ALL)}
    kimi, claude = found["kimi"], found["claude"]
    assert (kimi.answered, kimi.cut, kimi.failed) == (2, 1, 2)
    assert kimi.success_rate == pytest.approx(2 / 5)
    assert (claude.answered, claude.failed, claude.fallback_rate) == (1, 1, 1.0)
    (overall,) = await ledger.quality(ALL, by_provider=False)
    assert (overall.answered, overall.cut, overall.failed) == (3, 1, 1)
    assert overall.success_rate == pytest.approx(3 / 5)
    assert overall.fallback_rate == pytest.approx(1 / 3)
    assert overall.cost_per_task == pytest.approx(615_000 / NANO)
    assert overall.token_efficiency == pytest.approx(510 / 750)


async def test_a_provider_that_only_failed_is_shown(ledger: Ledger) -> None:
    await ledger.write([failed("groq")])
    (groq,) = await ledger.quality(ALL)
    assert (groq.provider, groq.failed, groq.success_rate) == ("groq", 1, 0.0)
    assert (groq.total, groq.avg_ms, groq.cost_per_task) == (Percentiles(), None, None)


async def test_failures_of_others_are_not_counted_for_a_group(ledger: Ledger) -> None:
    await ledger.write([failed(), failed(group="other")])
    (kimi,) = await ledger.quality(Span(0.0, group="team"))
    assert kimi.failed == 1


async def test_no_calls_have_no_quality(ledger: Ledger) -> None:
    assert await ledger.quality(ALL) == []
    assert await ledger.quality(ALL, by_provider=False) == []


async def test_latencies_are_percentiles_of_answers_only(ledger: Ledger) -> None:
    answers = [call(total_ms=float(ms), first_byte_ms=ms / 10) for ms in range(100, 0, -1)]
    slow_failure = failed(total_ms=1e6)
    await ledger.write([*answers, slow_failure, call(provider="other", total_ms=7.0)])
    found = {q.provider: q for q in await ledger.quality(ALL)}
    assert found["kimi"].total == Percentiles(50.0, 95.0, 99.0)
    assert found["kimi"].first_byte == Percentiles(5.0, 9.5, 9.9)
    assert found["kimi"].avg_ms == pytest.approx(50.5)
    assert found["other"].total == Percentiles(7.0, 7.0, 7.0)


async def test_an_answer_without_a_known_first_byte_still_has_a_total(ledger: Ledger) -> None:
    await ledger.write([call(first_byte_ms=None)])
    (kimi,) = await ledger.quality(ALL)
    assert (kimi.first_byte, kimi.total.p50) == (Percentiles(), 900.0)


async def test_the_ledger_can_be_followed_from_where_one_was(ledger: Ledger) -> None:
    await ledger.write([call(at=NOON - 40 * DAY), call(key="ci"), call(cost=None)])
    got, seq = await ledger.booked_after(0, NOON - DAY)
    assert [(c.group, c.key, c.cost, c.tokens.total) for c in got] == [
        ("team", "ci", 615_000, 170),
        ("team", "", None, 170),
    ]
    assert await ledger.booked_after(seq, 0.0) == ([], seq)
    await ledger.write([call(group="new")])
    got, after = await ledger.booked_after(seq, 0.0)
    assert [c.group for c in got] == ["new"]
    assert after > seq


async def test_a_long_ledger_is_followed_page_by_page(ledger: Ledger) -> None:
    await ledger.write([call(cost=n) for n in range(5)])
    first, seq = await ledger.booked_after(0, 0.0, limit=3)
    second, _ = await ledger.booked_after(seq, 0.0, limit=3)
    assert [c.cost for c in [*first, *second]] == [0, 1, 2, 3, 4]


async def test_old_calls_are_forgotten_and_new_ones_are_kept(ledger: Ledger) -> None:
    await ledger.write([failed(at=NOON - 100 * DAY), call(at=NOON - 99 * DAY), call()])
    assert await ledger.prune(NOON - 98 * DAY) == 3  # two calls and a failed attempt
    assert await ledger.prune(NOON - 98 * DAY) == 0
    assert (await ledger.total(ALL)).calls == 1


async def test_what_a_deleted_group_has_spent_stays_spent(store: Store, ledger: Ledger) -> None:
    await store.put_group("team")
    await ledger.write([call()])
    await store.delete_group("team")
    assert (await ledger.total(Span(0.0, group="team"))).cost == 615_000


async def test_text_and_numbers_no_database_takes_are_made_to_fit(ledger: Ledger) -> None:
    await ledger.write(
        [
            call(
                model="bad \ud800 \0" + "x" * 2000,
                total_ms=math.nan,
                first_byte_ms=math.inf,
                cost=10**30,
                tokens=Tokens(input=2**70, output=-1),
            )
        ]
    )
    (row,) = await ledger.usage((By.MODEL,), ALL)
    assert row.by[By.MODEL].startswith("bad ? x")
    assert (row.tokens, row.priced, row.no_usage) == (Tokens(cached=None), 0, 1)


async def test_reports_do_not_hold_up_messages(store: Store) -> None:
    reading, accepted = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(_connection: object) -> bool:
        loop.call_soon_threadsafe(reading.set)
        waiting = asyncio.run_coroutine_threadsafe(accepted.wait(), loop)
        return waiting.result(30)

    report = asyncio.create_task(store.read(slow))
    async with asyncio.timeout(30):
        await reading.wait()
        message = Message("msg_1", "team", 0, "hello", created_at=NOON)
        from_events = await store.last_event_id()
        await store.accept(message, 10, _event(from_events + 1))
        accepted.set()
        assert await report


def _event(number: int) -> Event:
    return Event(number, "team", "message.accepted", {})


amounts = st.none() | st.integers(0, 10**9)
recorded = st.lists(
    st.builds(
        Call,
        at=st.floats(0, 3e9),
        outcome=st.sampled_from(Outcome),
        group=st.sampled_from(["a", "b", ""]),
        key=st.sampled_from(["k", ""]),
        provider=st.sampled_from(["p", "q", ""]),
        model=st.sampled_from(["m", "n"]),
        tokens=st.builds(Tokens, amounts, amounts, amounts, amounts, amounts),
        cost=amounts,
        first_byte_ms=st.none() | st.floats(0, 1e6),
        total_ms=st.floats(0, 1e6),
    ),
    max_size=12,
)


def _sums(rows: Iterable[UsageRow]) -> Counter[str]:
    total: Counter[str] = Counter()
    for r in rows:
        total.update(calls=r.calls, ok=r.ok, cost=r.cost, priced=r.priced)
        total.update(unpriced=r.unpriced, no_usage=r.no_usage)
        for kind in ("input", "cached", "cache_write", "output", "reasoning"):
            total[kind] += getattr(r.tokens, kind) or 0
    return total


@settings(max_examples=25, deadline=None)
@given(recorded, st.sets(st.sampled_from(By)))
def test_however_usage_is_grouped_its_sums_are_those_of_the_calls(
    made: list[Call], by: set[By]
) -> None:
    async def check(path: Path) -> None:
        store = await Store.open(path)
        try:
            ledger = Ledger(store)
            await ledger.write(made)
            got = _sums(await ledger.usage(tuple(by), ALL))
            assert got == _sums([await ledger.total(ALL)])
        finally:
            await store.close()
        answered = [c for c in made if c.outcome is Outcome.OK or c.first_byte_ms is not None]
        told = [c for c in made if c.tokens.input is not None and c.tokens.output is not None]
        assert got["calls"] == len(made)
        assert got["cost"] == sum(c.cost or 0 for c in made)
        assert got["priced"] == sum(c.cost is not None for c in made)
        assert got["unpriced"] == sum(c.cost is None for c in told)
        assert got["no_usage"] == sum(c.cost is None and c not in told for c in answered)
        for kind in ("input", "cached", "cache_write", "output", "reasoning"):
            assert got[kind] == sum(getattr(c.tokens, kind) or 0 for c in made)

    with TemporaryDirectory() as folder:
        asyncio.run(check(Path(folder) / "nanokimi.db"))
