"""A scheduled task on a whole host: its run is a turn like any other."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rig import Rig, rig

from runner.schedule import ScheduleKind
from runner.store.deliveries import Deliveries
from runner.store.silence import SILENCE
from runner.store.task_desk import NewTask, Session

OFTEN = '[tools.schedule_task]\nmin_interval = "100ms"'


async def once_done(r: Rig, group: str, count: int = 1) -> list[dict[str, object]]:
    """The ends of the group's first ``count`` turns."""
    ended = []
    async with asyncio.timeout(60):
        async for event in r.host.events.follow(group, 0):
            if event.kind in ("turn.finished", "turn.failed"):
                ended.append(event.data)
                if len(ended) == count:
                    return ended
    raise AssertionError("the stream ended")


def every(prompt: str, when: str = "100ms") -> NewTask:
    return NewTask(prompt, ScheduleKind.INTERVAL, when)


def soon(prompt: str, session: Session = "own") -> NewTask:
    at = datetime.now(UTC) + timedelta(milliseconds=200)
    return NewTask(prompt, ScheduleKind.ONCE, at.isoformat(), session=session)


async def test_a_due_task_is_answered_like_a_message(tmp_path: Path) -> None:
    async with rig(tmp_path, more=OFTEN) as r:
        await r.host.put_group("birds")
        task = await r.host.tasks.add("birds", every("!say the nest is empty"))
        (ended, *_) = await once_done(r, "birds", 2)
        assert ended["text"] == "the nest is empty"
        await r.host.tasks.pause("birds", task.id)
        asked = r.provider.chats()[0].body.decode()
        assert f'scheduled-task id=\\"{task.id}\\"' in asked
        assert SILENCE in asked
        shown = await r.host.tasks.show(task.id, "birds")
        assert shown.task.runs >= 2


async def test_a_run_with_nothing_to_tell_is_not_delivered(tmp_path: Path) -> None:
    async with rig(tmp_path, more='[delivery]\nwebhook = "http://127.0.0.1:9/"') as r:
        await r.host.put_group("birds")
        await r.host.tasks.add("birds", soon(f"!say {SILENCE}"))
        (ended,) = await once_done(r, "birds")
        assert (ended["status"], ended["silent"]) == ("done", True)
        assert await Deliveries(r.host.store).heads() == []
        await r.host.tasks.add("birds", soon("!say a heron"))
        ended = (await once_done(r, "birds", 2))[-1]
        assert "silent" not in ended
        assert [h.group for h in await Deliveries(r.host.store).heads()] == ["birds"]
