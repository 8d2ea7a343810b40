"""Answers on their way to a bot: each once, in order, and visible when they cannot get there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from receiver import DROP, HANG, Answer, Receiver
from rig import Rig, group_path, rig

from runner.channels.secret import webhook_secret
from runner.errors import NanokimiError
from runner.settings.layout import Layout

SHORT = '[delivery]\ntimeout = "1s"'


@asynccontextmanager
async def bot(tmp_path: Path, **config: Any) -> AsyncIterator[tuple[Rig, Receiver]]:
    """A host and a receiver that knows its secret."""
    layout = Layout(tmp_path / "data")
    async with (
        Receiver(lambda: webhook_secret(layout)) as receiver,
        rig(tmp_path, **config) as r,
    ):
        yield r, receiver
        assert receiver.violations == []


async def post(r: Rig, group: str, text: str, **more: Any) -> dict[str, Any]:
    body = {"text": text, **more}
    told: dict[str, Any] = await r.api.call("POST", f"{group_path(group)}/messages", json=body)
    return told


async def deliveries(r: Rig, group: str, state: str = "") -> list[dict[str, Any]]:
    params = {"state": state} if state else {}
    page = await r.api.call("GET", f"{group_path(group)}/deliveries", params=params)
    found: list[dict[str, Any]] = page["deliveries"]
    return found


async def test_an_answer_is_posted_to_where_the_message_asked(tmp_path: Path) -> None:
    async with bot(tmp_path) as (r, receiver):
        url = receiver.url("/answers?chat=7")
        sent = await post(
            r, "birds", "!say tweet", reply_url=url, external_id="x1", metadata={"thread": 3}
        )
        (told,) = await receiver.until_told(1)
        finished = (await r.events("birds"))[-1]
        assert finished["kind"] == "turn.finished"
        assert told == {
            "event": finished.pop("kind"),
            "delivery_id": told["delivery_id"],
            "group": "birds",
            "message_ids": [sent["message_id"]],
            "external_ids": ["x1"],
            "metadata": {"thread": 3},
            **finished,
        }
        assert receiver.paths == ["/answers?chat=7"]


async def test_a_failure_is_told_too(tmp_path: Path) -> None:
    async with bot(tmp_path, host='turn_timeout = "1s"') as (r, receiver):
        await post(r, "birds", '!call bash {"command": "sleep 20"}', reply_url=receiver.url())
        (told,) = await receiver.until_told(1)
        assert (told["event"], told["code"]) == ("turn.failed", "turn_timeout")
        assert told["message"]
        assert told["hint"]


async def test_a_group_answers_where_it_was_asked_last_and_the_webhook_is_for_the_rest(
    tmp_path: Path,
) -> None:
    layout = Layout(tmp_path / "data")
    async with Receiver(lambda: webhook_secret(layout)) as receiver:
        more = (
            f'[delivery]\nwebhook = "{receiver.url("/all")}"\n'
            f'[groups.own]\nwebhook = "{receiver.url("/own")}"'
        )
        async with rig(tmp_path, more=more) as r:
            await post(r, "birds", "!say 1")
            await receiver.until_told(1)
            await post(r, "own", "!say 2")
            await receiver.until_told(2)
            await post(r, "birds", "!say 3", reply_url=receiver.url("/asked"))
            await receiver.until_told(3)
            await post(r, "birds", "!say 4")
            await receiver.until_told(4)
    assert receiver.texts() == ["1", "2", "3", "4"]
    assert receiver.paths == ["/all", "/own", "/asked", "/asked"]
    assert receiver.violations == []


async def test_without_a_receiver_there_is_nothing_to_deliver(tmp_path: Path) -> None:
    async with bot(tmp_path) as (r, receiver):
        assert await r.ask("birds", "!say tweet") == "tweet"
        assert await deliveries(r, "birds") == []
        assert receiver.paths == []


async def test_what_is_said_in_mid_turn_is_told_before_the_answer(tmp_path: Path) -> None:
    async with bot(tmp_path) as (r, receiver):
        receiver.script(Answer(500))
        text = '!call send_message {"text": "working"}\n!say done'
        await post(r, "birds", text, reply_url=receiver.url())
        told = await receiver.until_told(2)
        assert [(t["event"], t["text"]) for t in told] == [
            ("message.sent", "working"),
            ("turn.finished", "done"),
        ]
        (event,) = [e for e in await r.events("birds") if e["kind"] == "message.sent"]
        assert event["delivery_id"] == told[0]["delivery_id"]


async def test_order_is_kept_however_often_the_first_fails(tmp_path: Path) -> None:
    async with bot(tmp_path) as (r, receiver):
        receiver.script(Answer(500), Answer(503), DROP)
        for n in range(4):
            await r.ask("birds", f"!say {n}", reply_url=receiver.url())
        await receiver.until_told(4)
        assert receiver.texts() == ["0", "1", "2", "3"]
        assert sorted(receiver.counts.values()) == [1, 1, 1, 2]  # one was dropped after reading


async def test_a_wish_to_wait_is_kept(tmp_path: Path) -> None:
    async with bot(tmp_path) as (r, receiver):
        receiver.script(Answer(429, (("retry-after", "2"),)))
        await post(r, "birds", "!say tweet", reply_url=receiver.url())
        await receiver.until(lambda: len(receiver.paths) == 1)
        asked = asyncio.get_running_loop().time()
        await receiver.until_told(1)
        assert asyncio.get_running_loop().time() - asked >= 2


async def test_a_dead_receiver_holds_up_nobody_else(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    async with (
        Receiver(lambda: webhook_secret(layout)) as dead,
        bot(tmp_path, more=SHORT) as (r, receiver),
    ):
        dead.always(HANG)
        for n in range(12):
            await r.ask(f"dead-{n}", "!say late", reply_url=dead.url())
        await dead.until(lambda: dead.at_once > 0)
        await r.ask("birds", "!say tweet", reply_url=receiver.url())
        await receiver.until_told(1)
        assert dead.counts == {}
        assert dead.most_at_once <= 8
        dead.always(Answer())
        await dead.until_told(12)


async def test_a_refusal_is_visible_and_can_be_tried_again(tmp_path: Path) -> None:
    async with bot(tmp_path) as (r, receiver):
        receiver.script(Answer(410, body=b"no such chat"), path="/hook?token=secret")
        await post(r, "birds", "!say first", reply_url=receiver.url("/hook?token=secret"))
        failed = await r.until("birds", "delivery.failed")
        (row,) = await deliveries(r, "birds", "rejected")
        assert failed.data == {
            "turn_id": row["turn_id"],
            "delivery_id": row["delivery_id"],
            "error": "HTTP 410: no such chat",
        }
        assert (row["error"], row["attempts"]) == ("HTTP 410: no such chat", 1)
        assert row["target"] == receiver.url("/hook")
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{r.url}/metrics")).text
        assert 'nanokimi_deliveries{state="rejected"} 1.0' in text
        await post(r, "birds", "!say second", reply_url=receiver.url())
        await receiver.until_told(1)
        path = f"{group_path('birds')}/deliveries/{row['delivery_id']}/retry"
        assert (await r.api.call("POST", path))["state"] == "pending"
        await receiver.until_told(2)
        assert sorted(receiver.texts()) == ["first", "second"]
        while await deliveries(r, "birds", "delivered") != await deliveries(r, "birds"):
            await asyncio.sleep(0.02)
        with pytest.raises(NanokimiError) as e:
            await r.api.call("POST", path)
        assert e.value.code == "not_rejected"


async def test_a_delivery_that_is_too_old_is_given_up(tmp_path: Path) -> None:
    more = '[delivery]\nmax_age = "2s"'
    async with bot(tmp_path, more=more) as (r, receiver):
        receiver.always(Answer(500))
        await post(r, "birds", "!say tweet", reply_url=receiver.url())
        failed = await r.until("birds", "delivery.failed")
        assert "HTTP 500: ok; given up after" in failed.data["error"]
        assert len(receiver.paths) >= 2


async def test_a_long_answer_comes_in_parts(tmp_path: Path) -> None:
    async with bot(tmp_path, more="[groups.birds]\nmax_chars = 30") as (r, receiver):
        await post(r, "birds", "!say short", reply_url=receiver.url())
        assert "parts" not in (await receiver.until_told(1))[0]
        long = "!say a first line of words\n!say and a second one of them"
        await post(r, "birds", long, reply_url=receiver.url())
        last = (await receiver.until_told(2))[-1]
        assert last["parts"] == ["a first line of words", "and a second one of them"]
        assert last["text"] == "\n".join(last["parts"])


@pytest.mark.parametrize(
    "url",
    ["ftp://x/", "https://user:pw@x/", "x", "https://x/" + "a" * 2048],
    ids=["scheme", "password", "no-url", "long"],
)
async def test_a_place_that_cannot_be_written_to_is_refused_at_once(
    tmp_path: Path, url: str
) -> None:
    async with bot(tmp_path) as (r, _):
        with pytest.raises(NanokimiError) as e:
            await post(r, "birds", "hello", reply_url=url)
        assert e.value.code == "invalid_request"
        assert "reply_url" in e.value.message
        assert (await r.api.call("GET", "/api/groups"))["groups"] == []


async def test_a_stop_leaves_nothing_that_was_due_unsent(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    async with Receiver(lambda: webhook_secret(layout)) as receiver:
        async with rig(tmp_path) as r:
            await post(r, "birds", "!say tweet", reply_url=receiver.url())
            await r.until("birds", "turn.finished")
        assert receiver.texts() == ["tweet"]
        assert list(receiver.counts.values()) == [1]


async def test_the_calls_need_the_token(tmp_path: Path) -> None:
    async with bot(tmp_path) as (r, _), httpx.AsyncClient(base_url=r.url) as client:
        for method, path in (("GET", "/deliveries"), ("POST", "/deliveries/x/retry")):
            answer = await client.request(method, f"/api/groups/g{path}")
            assert answer.status_code == 401
        with pytest.raises(NanokimiError, match="no group"):
            await deliveries(r, "none")
