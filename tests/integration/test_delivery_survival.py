"""Answers and events outlive the host: killed at every point around them, each comes once."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from receiver import Answer, Receiver
from rig import log_in, write_config
from served import LISTEN, Served, tail

from runner.api.client import group_path
from runner.channels.secret import webhook_secret
from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout

# Runs the product, and kills it where the test has ordered so.
BREAKABLE = """
import os, signal, sys
from pathlib import Path

orders = Path(sys.argv[1])
del sys.argv[1]

def die_if(order):
    try:
        (orders / order).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

from runner.channels.webhook import Webhook
from runner.store import Store, deliveries, outbox, queue
from runner.store.deliveries import Deliveries

conclude, settle = outbox.conclude, deliveries._settle
finish, claim, delivered, send = Store.finish, Deliveries.claim, Deliveries.delivered, Webhook.send

def concluding(*args):
    made = conclude(*args)
    die_if("answer-before-commit")
    return made

def settling(*args, **named):
    done = settle(*args, **named)
    die_if("delivered-before-commit")
    return done

async def finishing(*args):
    done = await finish(*args)
    die_if("answer-after-commit")
    return done

async def claiming(*args):
    got = await claim(*args)
    if got is not None:
        die_if("claim-after-commit")
    return got

async def sending(*args):
    result = await send(*args)
    die_if("after-sending")
    return result

async def delivering(*args):
    done = await delivered(*args)
    die_if("delivered-after-commit")
    return done

queue.outbox.conclude, deliveries._settle = concluding, settling
Store.finish, Webhook.send = finishing, sending
Deliveries.claim, Deliveries.delivered = claiming, delivering
from runner.cli.main import main
main(sys.argv[1:])
"""

POINTS = (
    "answer-before-commit",
    "answer-after-commit",
    "claim-after-commit",
    "after-sending",
    "delivered-before-commit",
    "delivered-after-commit",
)


def breakable(tmp_path: Path, provider: DemoProvider) -> tuple[Served, Path]:
    """A host to be, and the folder for the orders to die."""
    layout = Layout(tmp_path / "data")
    write_config(layout, provider, more=LISTEN)
    log_in(layout, provider)
    orders, program = tmp_path / "orders", tmp_path / "breakable.py"
    orders.mkdir()
    program.write_text(BREAKABLE)
    return Served(layout, program=(str(program), str(orders))), orders


async def post(served: Served, group: str, body: dict[str, Any]) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.post(
            f"{served.url}{group_path(group)}/messages",
            json=body,
            headers={"authorization": f"Bearer {served.token}"},
        )
        assert answer.status_code == 202, answer.text


async def settled(served: Served, group: str) -> None:
    """Wait until the host knows of all that has arrived."""
    async with asyncio.timeout(60), aclosing(served.api()) as api:
        while True:
            page = await api.call("GET", f"{group_path(group)}/deliveries")
            if all(d["state"] == "delivered" for d in page["deliveries"]):
                return
            await asyncio.sleep(0.02)


@pytest.mark.timeout(300)  # seven hosts, one after the other
async def test_a_host_killed_anywhere_tells_each_answer_once(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider, Receiver(lambda: webhook_secret(layout)) as receiver:
        served, orders = breakable(tmp_path, provider)
        await served.start()
        try:
            for n, point in enumerate(POINTS):
                (orders / point).touch()
                text = f'!call send_message {{"text": "now {n}"}}\n!say {n}'
                await post(served, "birds", {"text": text, "reply_url": receiver.url()})
                assert await served.died() == -9, point
                await served.start()
                told = await receiver.until_told(2 * (n + 1))
                assert told[-1]["text"] == str(n), (point, tail(served.log_path))
                await settled(served, "birds")
        finally:
            await served.stop()
        assert receiver.violations == []
        assert receiver.texts("turn.finished") == [str(n) for n in range(len(POINTS))]
        assert receiver.texts("message.sent") == [f"now {n}" for n in range(len(POINTS))]
        # What had arrived before anybody wrote so came again, under its old key; the rest did not.
        again = {body["text"] for body in receiver.told if receiver.counts[body["delivery_id"]] > 1}
        assert again >= {"now 3", "now 4"}
        assert not again & {"now 2", "now 5"}


async def test_what_a_receiver_missed_while_the_host_was_dead_comes_after_it(
    tmp_path: Path,
) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider, Receiver(lambda: webhook_secret(layout)) as receiver:
        served, _ = breakable(tmp_path, provider)
        await served.start()
        try:
            receiver.always(Answer(503))
            for n in range(3):
                await post(served, f"g{n}", {"text": f"!say {n}", "reply_url": receiver.url()})
            await receiver.until(lambda: len(receiver.paths) >= 3)
            await served.kill()
            receiver.always(Answer())
            await served.start()
            await receiver.until_told(3)
            assert sorted(receiver.texts()) == ["0", "1", "2"]
            assert receiver.violations == []
        finally:
            await served.stop()


class Listener:
    """An SSE client as a browser is one: it comes back with the last id that it saw."""

    def __init__(self, group: str) -> None:
        self.seen: list[tuple[int, str, dict[str, Any]]] = []
        self._path = f"{group_path(group)}/events"
        self._last = 0

    async def listen(self, served: Served, until: str, count: int = 1) -> None:
        """Until so many events of this kind have come on this connection, or it ends."""
        headers = {
            "authorization": f"Bearer {served.token}",
            "last-event-id": str(self._last),
        }
        kind, id_ = "", 0
        async with (
            asyncio.timeout(60),
            httpx.AsyncClient(base_url=served.url, timeout=60) as client,
            client.stream("GET", self._path, headers=headers) as stream,
        ):
            assert stream.status_code == 200
            async for line in stream.aiter_lines():
                name, _, value = line.partition(": ")
                match name:
                    case "id":
                        id_ = int(value)
                    case "event":
                        kind = value
                    case "data":
                        self.seen.append((id_, kind, json.loads(value)))
                        self._last = id_
                        count -= kind == until
                        if count == 0:
                            return

    def facts(self, kind: str) -> list[dict[str, Any]]:
        return [data for _, seen, data in self.seen if seen == kind]


async def test_a_stream_goes_on_over_a_killed_host_and_tells_each_fact_once(
    tmp_path: Path,
) -> None:
    async with DemoProvider() as provider:
        served, orders = breakable(tmp_path, provider)
        await served.start()
        listener = Listener("birds")
        try:
            await post(served, "birds", {"text": "!say one"})
            await listener.listen(served, "turn.finished")
            for n, point in enumerate(("answer-before-commit", "answer-after-commit")):
                (orders / point).touch()
                listening = asyncio.create_task(listener.listen(served, "turn.finished"))
                await post(served, "birds", {"text": f"!say after {n}"})
                assert await served.died() == -9
                await asyncio.wait({listening})
                with pytest.raises(httpx.HTTPError):
                    listening.result()
                await served.start()
                await listener.listen(served, "turn.finished")
            ids = [id_ for id_, _, _ in listener.seen]
            assert ids == sorted(set(ids))
            assert [d["text"] for d in listener.facts("turn.finished")] == [
                "one",
                "after 0",
                "after 1",
            ]
            assert len(listener.facts("message.accepted")) == 3
            starts = listener.facts("turn.started")
            assert [s["attempt"] for s in starts] == [1, 1, 2, 1]
            # Whoever comes for the first time is told the same facts.
            fresh = Listener("birds")
            await fresh.listen(served, "turn.finished", count=3)
            for kind in ("message.accepted", "turn.started", "turn.finished"):
                assert fresh.facts(kind) == listener.facts(kind)
        finally:
            await served.stop()
