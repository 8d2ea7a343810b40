"""Several workers of one gateway, as real processes in front of the strict provider."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from fleet import DEADLINE, Fleet, Line, alive, fleet, launch
from prometheus_client.parser import text_string_to_metric_families
from rig import log_in, write_config

from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout

KEY = "gw-worker-key"
BUDGETED = ("gw-small-key-a", "gw-small-key-b")
LIMITED = "sk-limited"
CONFIG = f"""
[models.limited]
provider = "apart"
model = "kimi-for-coding"
max_context_size = 262144

[providers.apart]
type = "kimi"
base_url = "BASE"
api_key = "{LIMITED}"

[gateway]
keys = [
    {{ key = "{KEY}", name = "tests" }},
    {{ key = "{BUDGETED[0]}", name = "a", budget = {{ day_tokens = 1 }} }},
    {{ key = "{BUDGETED[1]}", name = "b", budget = {{ day_tokens = 1 }} }},
]
max_retries = 0
"""
TOOL = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "run",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
        },
    },
}


pytestmark = pytest.mark.asyncio(loop_scope="module")


def prepared(root: Path, provider: DemoProvider) -> Layout:
    layout = Layout(root / "data")
    write_config(layout, provider, more=CONFIG.replace("BASE", provider.base_url))
    log_in(layout, provider)
    provider.add_api_key(LIMITED)
    return layout


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[DemoProvider]:
    async with DemoProvider() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def f(
    provider: DemoProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    async with fleet(prepared(tmp_path_factory.mktemp("fleet"), provider)) as made:
        yield made


@pytest.fixture
def layout(tmp_path: Path, provider: DemoProvider) -> Layout:
    return prepared(tmp_path, provider)


async def lines_of(f: Fleet, stack: AsyncExitStack, key: str = KEY) -> list[Line]:
    return [await stack.enter_async_context(f.line(worker, key)) for worker in f.pids]


def in_order(labels: dict[str, str]) -> list[str]:
    """The values of the labels; provider and model come first."""
    return [labels[n] for n in sorted(labels, key=lambda n: (n != "provider", n != "model", n))]


async def samples(line: Line) -> dict[tuple[str, ...], float]:
    """Every sample of ``/metrics`` by its name and the values of its labels."""
    answer = await line.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (s.name, *in_order(s.labels)): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
    }


async def test_reasoning_that_one_worker_saw_is_put_back_by_another(
    f: Fleet, provider: DemoProvider
) -> None:
    async with AsyncExitStack() as stack:
        one, two, _ = await lines_of(f, stack)
        messages = [{"role": "user", "content": '!call bash {"command": "ls"}\n!say done: {last}'}]
        said = (await one.chat(messages, tools=[TOOL])).json()["choices"][0]["message"]
        reasoning = said.pop("reasoning_content")
        assert reasoning
        result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "a.txt"}
        answer = await two.chat([*messages, said, result], tools=[TOOL])
    assert answer.json()["choices"][0]["message"]["content"] == "done: a.txt"
    assert provider.chats()[-1].json["messages"][1]["reasoning_content"] == reasoning


async def test_a_rest_that_one_worker_learnt_of_is_kept_by_all(
    f: Fleet, provider: DemoProvider
) -> None:
    limited = Fault(status=429, type="rate_limit_reached_error", headers={"retry-after": "77"})
    ask = [{"role": "user", "content": "!say hi"}]
    before = len(provider.chats())
    async with AsyncExitStack() as stack:
        one, *others = await lines_of(f, stack)
        provider.faults.add(limited)
        assert (await one.chat(ask, model="limited")).status_code == 429
        for other in others:
            answer = await other.chat(ask, model="limited")
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) > 60
    assert len(provider.chats()) == before + 1


async def test_a_budget_is_one_for_all_workers_and_each_call_is_in_it_once(f: Fleet) -> None:
    async with AsyncExitStack() as stack:
        lines = await lines_of(f, stack, BUDGETED[0])
        answers = await asyncio.gather(*(line.say("!say hi") for line in lines))
        # None of them had ended when the others began, so all were within the budget.
        spent = sum(a.json()["usage"]["total_tokens"] for a in answers if a.status_code == 200)
        assert spent > 0
        said = f"{spent:,} tokens of 1 tokens"
        for line in lines:
            async with asyncio.timeout(DEADLINE):
                while said not in (answer := await line.say("!say hi")).text:
                    # A worker lets nobody in again before it knows of the others' calls.
                    assert answer.status_code == 429
                    await asyncio.sleep(0.05)
            assert answer.json()["error"]["type"] == "exceeded_current_quota_error"


async def test_a_budget_that_one_worker_used_up_is_soon_used_up_for_the_others(f: Fleet) -> None:
    ask = [{"role": "user", "content": "hi"}]
    async with AsyncExitStack() as stack:
        one, two, three = await lines_of(f, stack, BUDGETED[1])
        assert (await one.say("!say hi")).status_code == 200
        assert (await one.say("!say hi")).status_code == 429
        for other in (two, three):
            async with asyncio.timeout(DEADLINE):
                # The budget comes before the name, so this spends nothing of its own.
                while (answer := await other.chat(ask, model="none")).status_code != 429:
                    assert answer.status_code == 404
                    await asyncio.sleep(0.1)


async def test_a_killed_worker_loses_its_own_calls_only_and_comes_back(f: Fleet) -> None:
    before = dict(f.pids)

    async def stream(line: Line, pause: float, begun: asyncio.Event) -> str:
        text = f"!slow {pause}\n!say one two three four"
        ask = {"model": "kimi-code", "messages": [{"role": "user", "content": text}]}
        got = ""
        async with line.client.stream(
            "POST", "/v1/chat/completions", json={**ask, "stream": True}
        ) as answer:
            async for part in answer.aiter_text():
                begun.set()
                got += part
        return got

    async with AsyncExitStack() as stack:
        lines = await lines_of(f, stack)
        begun = [asyncio.Event() for _ in lines]
        pauses = [0.1, 2.0, 0.1]
        calls = [asyncio.create_task(stream(*c)) for c in zip(lines, pauses, begun, strict=True)]
        async with asyncio.timeout(DEADLINE):
            for each in begun:
                await each.wait()
            os.kill(before[1], signal.SIGKILL)
            first, lost, third = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(lost, httpx.TransportError)
        for whole in (first, third):
            assert isinstance(whole, str)
            assert whole.rstrip().endswith("data: [DONE]")
    died = await f.until("gateway.worker_died", worker=1)
    assert (died["pid"], died["code"]) == (before[1], -signal.SIGKILL)
    await f.replaced(1, before[1])
    assert f.pids == {**before, 1: f.pids[1]}
    async with f.line(1, KEY) as line:
        assert (await line.say("!say back")).json()["choices"][0]["message"]["content"] == "back"


async def test_a_signal_ends_all_workers(layout: Layout) -> None:
    async with fleet(layout, 2) as f:
        pids = list(f.pids.values())
        assert len(pids) == 2
        assert all(map(alive, pids))
        counts = f.counts
        assert counts.is_relative_to(layout.root)
        f.process.terminate()
        assert await f.ended() == 0
        assert not counts.exists()
        assert not any(map(alive, pids))
        assert [e["event"] for e in f.events].count("gateway.stopped") == 3


async def test_workers_do_not_outlive_a_killed_parent(layout: Layout) -> None:
    async with fleet(layout, 2) as f:
        pids = list(f.pids.values())
        f.process.kill()
        await f.all_gone(pids)


async def test_an_address_that_others_listen_at_is_not_shared_with_them(
    f: Fleet, layout: Layout
) -> None:
    taken = f.url.removeprefix("http://")
    for workers in (1, 2):
        other = await launch(layout, workers, listen=taken)
        assert await other.ended() == 1
        assert f"error: cannot listen on {taken}" in other.log.read_text()


async def test_what_keeps_a_worker_from_starting_ends_the_command_and_is_said(
    layout: Layout,
) -> None:
    layout.database.write_text("this is not a database, " * 100)
    f = await launch(layout, 2)
    assert await f.ended() == 1
    said = f.log.read_text()
    assert "the database is damaged" in said
    assert "error: a gateway worker ended before it served (code 1)" in said
    assert f.pids == {}


async def test_each_worker_tells_the_metrics_of_all_and_a_restart_takes_none_back(
    f: Fleet,
) -> None:
    model = ("demo", "kimi-for-coding")
    ok = ("nanokimi_model_calls_total", *model, "ok")
    refused = ("nanokimi_model_calls_total", "other", "other", "refused")
    first_byte = ("nanokimi_model_first_byte_seconds_count", *model)
    async with AsyncExitStack() as stack:
        lines = await lines_of(f, stack)
        before = Counter(await samples(lines[0]))
        for line in lines:
            assert (await line.say("!say hi")).status_code == 200
        await lines[0].chat([{"role": "user", "content": "x"}], model="no-such-model")
        for line in lines:
            seen = await samples(line)
            assert seen[ok] == before[ok] + 3
            assert seen[refused] == before[refused] + 1
            assert seen[first_byte] == before[first_byte] + 3
            assert not any("no-such-model" in labels for labels in seen)
        killed = f.pids[2]
        os.kill(killed, signal.SIGKILL)
        await f.replaced(2, killed)
        again = await stack.enter_async_context(f.line(2, KEY))
        assert (await samples(again))[ok] == before[ok] + 3
        await again.say("!say hi")
        last = await stack.enter_async_context(f.line(0, KEY))
        assert (await samples(last))[ok] == before[ok] + 4
    # And restarts do not leave more and more files to be read.
    assert sorted(path.name for path in f.counts.glob("counter_*")) == [
        f"counter_{worker}.db" for worker in f.pids
    ]
