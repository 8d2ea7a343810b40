"""A host forgets what ended long ago, by itself."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from rig import log_in, running, write_config

from runner.demo.provider import DemoProvider
from runner.model import Event, Message, TurnState
from runner.settings.layout import Layout
from runner.store import Claim, Store

DAY = 86_400.0


async def test_a_host_forgets_what_is_older_than_the_setting_and_answers_what_is_not(
    tmp_path: Path,
) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider, more='[store]\nkeep_messages = "30d"')
        log_in(layout, provider)
        old = time.time() - 40 * DAY
        store = await Store.open(layout.database)
        for n, text in enumerate(("answered", "!say late, but here")):
            event = Event(int(old * 1e6) + 10 * n, "birds", "message.accepted", {})
            await store.accept(Message(f"msg_{n}", "birds", 0, text, created_at=old), 10, event)
            if n == 0:
                got = await store.claim("birds", "gone", event.id + 1)
                assert isinstance(got, Claim)
                ended = replace(got.turn, state=TurnState.DONE, finished_at=old)
                assert await store.finish(ended, replace(event, id=event.id + 2))
        await store.close()
        async with running(layout, provider) as r, asyncio.timeout(60):
            while [m.id for m in await r.host.store.messages("birds")] != ["msg_1"]:
                await asyncio.sleep(0.05)
            await r.until("birds", "turn.finished")
            (message,) = await r.host.store.messages("birds")
            assert message.state == "answered"
