"""Two hosts on one database: each group is one's, and messages and events go by either."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from rig import TOKEN, Rig, group_path, log_in, running, write_config
from sqlalchemy import Connection, delete, update

from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.errors import NanokimiError
from runner.host import foreign
from runner.model import MessageState
from runner.settings.layout import Layout
from runner.store import hosts
from runner.store import schema as t
from runner.store.lease import Lease


@asynccontextmanager
async def pair(tmp_path: Path, url: str) -> AsyncIterator[tuple[Rig, Rig]]:
    """Two data directories that share nothing but the database."""
    one, two = Layout(tmp_path / "one"), Layout(tmp_path / "two")
    async with DemoProvider() as provider:
        for layout in (one, two):
            write_config(layout, provider, store_url=url)
            log_in(layout, provider)
        async with running(one, provider) as first, running(two, provider) as second:
            yield first, second


async def settled(r: Rig, group: str) -> None:
    async with asyncio.timeout(60):
        while any(m.state is not MessageState.ANSWERED for m in await r.host.store.messages(group)):
            await asyncio.sleep(0.05)


async def test_a_message_by_either_host_is_answered_once_and_both_stream_it(
    tmp_path: Path, postgres_url: str
) -> None:
    async with pair(tmp_path, postgres_url) as (one, two):
        await one.ask("birds", "remember the word heron")
        followed = asyncio.create_task(one.until("birds", "turn.finished"))
        told = await two.say("birds", "which word?")
        assert told[-1].data["text"] == "The word was heron."
        assert "birds" in one.host.pool.warm()
        assert "birds" not in two.host.pool.warm()
        await followed
        waited = await two.api.call(
            "POST",
            f"{group_path('birds')}/messages",
            json={"text": "!say waited"},
            params={"wait": 30},
        )
        assert waited["text"] == "waited"
        ids = [e["turn_id"] for e in await two.events("birds") if e["kind"] == "turn.finished"]
        assert len(ids) == len(set(ids)) == 3


async def test_many_messages_by_both_hosts_are_answered_once_and_in_order(
    tmp_path: Path, postgres_url: str
) -> None:
    async with pair(tmp_path, postgres_url) as (one, two):
        for n in range(6):
            for group in ("a", "b", "c"):
                by = (one, two)[n % 2]
                await by.api.call(
                    "POST", f"{group_path(group)}/messages", json={"text": f"!say {n}"}
                )
        for group in ("a", "b", "c"):
            await settled(one, group)
            assert (group in one.host.pool.warm()) != (group in two.host.pool.warm())
            finished = [e for e in await one.events(group) if e["kind"] == "turn.finished"]
            said = [w for e in finished for w in str(e["text"]).split()]
            assert said == sorted(said)
            messages = await one.host.store.messages(group)
            assert {m.turn_id for m in messages} == {e["turn_id"] for e in finished}


async def test_what_another_host_runs_cannot_be_changed_behind_its_back(
    tmp_path: Path, postgres_url: str
) -> None:
    async with pair(tmp_path, postgres_url) as (one, two):
        await one.ask("birds", "!say one")
        path = group_path("birds")
        for method, call in (
            ("POST", f"{path}/cancel"),
            ("POST", f"{path}/stop"),
            ("POST", f"{path}/reset"),
            ("DELETE", path),
        ):
            with pytest.raises(NanokimiError) as e:
                await two.api.call(method, call)
            assert e.value.code == "owned_elsewhere", call
        assert await one.ask("birds", "!say still") == "still"


async def test_a_clean_stop_hands_over_at_once(tmp_path: Path, postgres_url: str) -> None:
    one, two = Layout(tmp_path / "one"), Layout(tmp_path / "two")
    async with DemoProvider() as provider:
        for layout in (one, two):
            write_config(layout, provider, store_url=postgres_url)
            log_in(layout, provider)
        async with running(two, provider) as second:
            async with running(one, provider) as first:
                await first.ask("birds", "!say one")
            assert await second.ask("birds", "!say two") == "two"
            assert "birds" in second.host.pool.warm()


async def test_a_host_that_slept_lets_go_of_what_another_has_taken(
    tmp_path: Path, postgres_url: str
) -> None:
    async with pair(tmp_path, postgres_url) as (one, two):
        await one.ask("birds", "!say one")
        sandbox = one.host.pool.warm()["birds"].sandbox.info

        def expire(c: Connection) -> None:
            mine = update(t.hosts).where(t.hosts.c.id == one.host._lease.host)
            c.execute(mine.values(expires_at=hosts.clock(c) - 1))

        await one.host.store.transact(expire)
        assert await two.ask("birds", "!say mine") == "mine"
        async with asyncio.timeout(30):
            while "birds" in one.host.pool.groups():
                await asyncio.sleep(0.05)
        assert sandbox.ref not in [i.ref for i in await one.host.spawner.list()]
        assert "birds" in two.host.pool.warm()


async def test_a_host_holds_nothing_of_a_group_that_another_has_taken(
    tmp_path: Path, postgres_url: str
) -> None:
    async with pair(tmp_path, postgres_url) as (one, two):
        one.provider.faults.add(Fault(status=503, message="down for maintenance"), times=5000)
        await one.api.call("POST", f"{group_path('birds')}/messages", json={"text": "!say one"})
        assert (await one.until("birds", "turn.failed")).data["held"]
        assert one.host.held_for("birds")

        def hand_over(c: Connection) -> None:
            mine = update(t.hosts).where(t.hosts.c.id == one.host._lease.host)
            c.execute(mine.values(expires_at=hosts.clock(c) - 1))
            hosts.take(c, "birds", two.host._lease.host)

        await one.host.store.transact(hand_over)
        async with asyncio.timeout(30):
            while one.host.held_for("birds") or not two.host.held_for("birds"):
                await asyncio.sleep(0.05)
        one.provider.faults.clear()
        await settled(two, "birds")


async def test_a_host_that_lost_its_place_makes_ids_of_the_one_it_has_now(
    tmp_path: Path, postgres_url: str
) -> None:
    async with pair(tmp_path, postgres_url) as (one, two):
        await one.ask("birds", "!say one")
        place = one.host.events.slot
        third = Lease(two.host.store, "third")

        def forget(c: Connection) -> None:
            c.execute(delete(t.hosts).where(t.hosts.c.id == one.host._lease.host))

        await two.host.store.transact(forget)
        assert (await third.enter()).slot == place
        heard: list[int] = []

        async def hear() -> None:
            async for event in one.host.events.follow("birds"):
                heard.append(event.id)  # noqa: PERF401  it is looked at meanwhile

        hearing = asyncio.create_task(hear())
        async with asyncio.timeout(30):
            while (now := one.host.events.slot) == place:
                await asyncio.sleep(0.05)
        await one.ask("birds", "!say two")
        await asyncio.sleep(3 * foreign.LOOK)  # what it made in its old place is not another's
        hearing.cancel()
        assert {id_ % hosts.SLOTS for id_ in heard} <= {place, now}
        assert heard[-1] % hosts.SLOTS == now
        assert len(heard) == len(set(heard))
        await third.leave()


def with_a_file(text: str) -> dict[str, Any]:
    data = base64.b64encode(b"arrived").decode()
    return {"text": text, "attachments": [{"name": "a.txt", "data": data}]}


LOOK = f"!call bash {json.dumps({'command': 'cat attachments/*/a.txt'})}\n!say {{last}}"


async def test_files_are_refused_by_a_host_that_the_groups_host_shares_no_disk_with(
    tmp_path: Path, postgres_url: str
) -> None:
    async with pair(tmp_path, postgres_url) as (one, two):
        path = f"{group_path('birds')}/messages"
        first = await one.api.call("POST", path, json=with_a_file(LOOK), params={"wait": 30})
        assert "arrived" in first["text"]
        owner = one.host._lease.host
        with pytest.raises(NanokimiError) as e:
            await two.api.call("POST", path, json=with_a_file("look"))
        assert e.value.code == "owned_elsewhere"
        assert owner in e.value.message
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}) as client:
            refused = await client.post(
                f"{two.url}{path}",
                data={"message": '{"text": "look"}'},
                files={"file": ("a.txt", b"x")},
            )
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "owned_elsewhere"
        assert not list((two.layout.root / "attachments").rglob("a.txt"))
        assert (await two.api.call("GET", group_path("birds")))["owner"] == owner
        assert (await one.api.call("GET", group_path("birds")))["owner"] == ""
        assert await two.ask("birds", "!say without") == "without"


async def test_a_file_that_another_host_has_is_asked_of_that_host(
    tmp_path: Path, postgres_url: str
) -> None:
    async with pair(tmp_path, postgres_url) as (one, two):
        await one.ask("birds", f"!call bash {json.dumps({'command': 'echo x > x'})}")
        await one.ask("birds", f"!call send_file {json.dumps({'path': 'x'})}")
        path = f"{group_path('birds')}/files"
        (file,) = (await two.api.call("GET", path))["files"]
        with pytest.raises(NanokimiError) as e:
            await two.api.call("GET", f"{path}/{file['file_id']}")
        assert e.value.code == "owned_elsewhere"
        assert one.host._lease.host in e.value.message


async def test_a_host_keeps_a_free_group_that_files_came_to_it_for(
    tmp_path: Path, postgres_url: str
) -> None:
    async with pair(tmp_path, postgres_url) as (one, two):
        for n in range(6):
            by, path = (one, two)[n % 2], f"{group_path(f'g{n}')}/messages"
            done = await by.api.call("POST", path, json=with_a_file(LOOK), params={"wait": 30})
            assert "arrived" in done["text"]


async def test_hosts_that_share_attachments_take_files_for_each_other(
    tmp_path: Path, postgres_url: str
) -> None:
    async with pair(tmp_path, postgres_url) as (one, two):
        await one.ask("birds", "!say one")
        (sign,) = (one.layout.root / "attachments").glob(".host-*")
        (two.layout.root / "attachments" / sign.name).touch()  # as on one file system
        await two.host.check_attachments("birds")


async def test_an_agent_is_told_of_a_file_that_is_gone(tmp_path: Path, postgres_url: str) -> None:
    async with pair(tmp_path, postgres_url) as (one, two):
        await one.ask("birds", "!say one")
        (two.layout.root / "attachments" / f".host-{one.host._lease.host}").touch()  # it lies
        path = f"{group_path('birds')}/messages"
        await two.api.call("POST", path, json=with_a_file("!say two"), params={"wait": 30})
        told = json.dumps([r.body for r in one.provider.requests], default=str)
        assert "it is not there any more" in told
