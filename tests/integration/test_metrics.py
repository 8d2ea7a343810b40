"""``/metrics`` of a real host, read as Prometheus reads it."""

import asyncio
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rig import Rig, log_in, rig

Samples = dict[tuple[str, tuple[str, ...]], float]


async def scrape(r: Rig) -> Samples:
    """Every sample by its name and the values of its labels. No token is sent."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{r.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (s.name, tuple(s.labels.values())): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
    }


async def test_the_ends_of_turns_sandboxes_and_logins_are_counted(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        before = await scrape(r)
        assert before["nanokimi_turns_total", ("done",)] == 0
        assert before["nanokimi_login_ok", ("demo",)] == 1
        assert 0 < before["nanokimi_login_expires_seconds", ("demo",)] <= 900
        await r.ask("birds", "!say one")
        await r.ask("plants", "!say two")
        work = asyncio.create_task(r.say("birds", "!slow 5\n!say never said"))
        await r.until("birds", "message.accepted")
        while (seen := await scrape(r))["nanokimi_turns_running", ()] != 1:
            await asyncio.sleep(0.02)
        assert seen["nanokimi_messages_waiting", ()] == 1
        await r.host.cancel("birds")
        await work
        seen = await scrape(r)
        assert seen["nanokimi_turns_total", ("done",)] == 2
        assert seen["nanokimi_turns_total", ("cancelled",)] == 1
        assert seen["nanokimi_turns_total", ("failed",)] == 0
        assert seen["nanokimi_sandboxes", ("idle",)] == 2
        assert seen["nanokimi_turns_running", ()] == seen["nanokimi_messages_waiting", ()] == 0


async def test_a_lost_login_is_told_and_so_is_its_return(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.provider.revoke_logins()
        work = asyncio.create_task(r.ask("birds", "!say one"))
        await r.until("birds", "turn.failed")
        seen = await scrape(r)
        assert seen["nanokimi_login_ok", ("demo",)] == 0
        assert seen["nanokimi_groups_held", ()] == 1
        assert seen["nanokimi_turns_running", ()] == 0
        assert seen["nanokimi_messages_waiting", ()] == 1
        log_in(r.layout, r.provider)
        assert await work == "one"
        seen = await scrape(r)
        assert seen["nanokimi_login_ok", ("demo",)] == 1
        assert seen["nanokimi_groups_held", ()] == 0


async def test_the_calls_of_groups_are_counted_by_their_model(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        model = ("kimi-for-coding", "demo")
        assert not any(name.startswith("nanokimi_model_calls") for name, _ in await scrape(r))
        await r.ask("birds", "!say one")
        seen = await scrape(r)
        assert seen["nanokimi_model_calls_total", ("kimi-for-coding", "ok", "demo")] == 1
        assert seen["nanokimi_model_first_byte_seconds_count", model] == 1
        assert seen["nanokimi_model_tokens_total", ("output", "kimi-for-coding", "demo")] > 0


async def test_no_group_is_named(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.ask("a-secret-group", "!say hi")
        samples = await scrape(r)
        assert not any("secret" in label for _, labels in samples for label in labels)
