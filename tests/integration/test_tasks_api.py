"""Tasks over HTTP and from the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rig import Rig, log_in, rig, write_config
from served import LISTEN, Served

from runner.api.client import group_path
from runner.demo.provider import DemoProvider
from runner.errors import NanokimiError
from runner.settings.layout import Layout

PATH = "/api/groups/birds/tasks"
WEEKDAYS = {"prompt": "sum up", "schedule": {"cron": "0 9 * * 1-5"}, "timezone": "Asia/Tokyo"}


async def refused(r: Rig, method: str, path: str, **options: Any) -> str:
    with pytest.raises(NanokimiError) as e:
        await r.api.call(method, path, **options)
    return e.value.code


async def test_a_task_over_its_life(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        made = await r.api.call("POST", PATH, json=WEEKDAYS)
        assert made["next_run"].endswith("T09:00:00+09:00")
        assert made["schedule"] == {"cron": "0 9 * * 1-5"}
        assert (made["group"], made["state"], made["last_run"]) == ("birds", "active", None)
        one = f"{PATH}/{made['task_id']}"
        assert await r.api.call("GET", one) == made
        assert await r.api.call("GET", f"/api/tasks/{made['task_id']}") == made
        paused = await r.api.call("PATCH", one, json={"paused": True})
        assert (paused["state"], paused["next_run"]) == ("paused", None)
        change = {"paused": False, "schedule": {"interval": 3600}, "session": "group"}
        changed = await r.api.call("PATCH", one, json=change)
        assert changed["schedule"] == {"interval": "3600"}
        assert (changed["state"], changed["session"]) == ("active", "group")
        assert changed["next_run"].endswith("+09:00")
        assert (await r.api.call("GET", PATH))["tasks"] == [changed]
        assert (await r.api.call("GET", "/api/tasks"))["tasks"] == [changed]
        await r.api.call("DELETE", one)
        assert (await r.api.call("GET", PATH))["tasks"] == []


async def test_what_cannot_be_is_refused_with_its_reason(tmp_path: Path) -> None:
    config = {
        "more": '[tools.schedule_task]\nmax_tasks = 1\nmin_interval = "1h"\n'
        '[people]\nroles = {mallory = "blocked"}',
        "host": 'allowed_groups = ["birds"]',
    }
    async with rig(tmp_path, **config) as r:

        async def post(**change: Any) -> str:
            body = json.dumps({**WEEKDAYS, **change})  # ASCII
            return await refused(r, "POST", PATH, content=body)

        assert await post(schedule={}) == "invalid_request"
        assert await post(schedule={"interval": 60, "once": "2027-01-01"}) == "invalid_request"
        assert await post(schedule={"interval": 60}) == "bad_schedule"
        assert await post(schedule={"cron": "*/30 * * * *"}) == "bad_schedule"
        assert await post(schedule={"once": "2020-01-01T00:00"}) == "bad_schedule"
        assert await post(schedule={"cron": "\ud800"}) == "invalid_request"
        assert await post(timezone="Europe/Zürich") == "bad_timezone"
        assert await post(prompt=" ") == "bad_prompt"
        assert await post(prompt="a\0b") == "bad_prompt"
        assert await post(session="other") == "invalid_request"
        assert await post(reply_url="file:///etc/passwd") == "invalid_request"
        assert await post(created_by="mallory") == "sender_blocked"
        assert await post(created_by="mal\u200blory") == "bad_member_id"
        elsewhere = "/api/groups/plants/tasks"
        assert await refused(r, "POST", elsewhere, json=WEEKDAYS) == "group_not_allowed"
        assert await refused(r, "GET", elsewhere) == "not_found"
        made = await r.api.call("POST", PATH, json=WEEKDAYS)
        assert await post() == "too_many_tasks"
        for odd in ("nothing", "a%2Fb", "%2e%2e", made["task_id"].upper()):
            assert await refused(r, "PATCH", f"{PATH}/{odd}", json={}) in (
                "not_found",
                "http_error",
            )
        await r.host.put_group("plants")
        theirs = f"{elsewhere}/{made['task_id']}"
        for method, options in (("GET", {}), ("PATCH", {"json": {}}), ("DELETE", {})):
            assert await refused(r, method, theirs, **options) == "not_found"
        assert (await r.api.call("GET", PATH))["tasks"] == [made]


async def test_a_groups_tasks_go_with_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.api.call("POST", PATH, json=WEEKDAYS)
        await r.api.call("DELETE", group_path("birds"))
        assert (await r.api.call("GET", "/api/tasks"))["tasks"] == []


def nanokimi(layout: Layout, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "runner", "--data", str(layout.root), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def listed(layout: Layout, *arguments: str) -> Sequence[dict[str, Any]]:
    code, out, err = nanokimi(layout, "tasks", "list", "--json", *arguments)
    assert code == 0, err
    found: list[dict[str, Any]] = json.loads(out)
    return found


@pytest.mark.parametrize("serving", [False, True], ids=["store", "host"])
async def test_tasks_from_the_command_line(tmp_path: Path, serving: bool) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider, more=LISTEN)
        log_in(layout, provider)
        served = Served(layout)
        if serving:
            await served.start()
        try:
            weekdays = ("--cron", "0 9 * * 1-5", "--timezone", "Europe/Zurich")
            code, out, err = nanokimi(layout, "tasks", "add", "birds", "sum up", *weekdays)
            assert code == 0, err
            task = out.split(":")[0]
            assert nanokimi(layout, "tasks", "add", "a/b", "[bold]x[/]", "--every", "1h")[0] == 0
            assert [t["group"] for t in listed(layout)] == ["birds", "a/b"]
            assert [t["task_id"] for t in listed(layout, "birds")] == [task]
            _, out, _ = nanokimi(layout, "tasks", "list")
            assert task in out
            assert "[bold]x[/]" in out
            assert nanokimi(layout, "tasks", "pause", task)[:2] == (0, "paused\n")
            assert listed(layout)[0]["state"] == "paused"
            code, out, _ = nanokimi(layout, "tasks", "resume", task)
            assert (code, "T09:00:00+" in out) == (0, True)
            assert nanokimi(layout, "tasks", "rm", task)[0] == 0
            assert len(listed(layout)) == 1
            code, _, err = nanokimi(layout, "tasks", "rm", task)
            assert (code, "there is no task" in err) == (1, True)
            for wrong in (("--every", "1s"), (), ("--every", "1h", "--session", "none")):
                code, _, err = nanokimi(layout, "tasks", "add", "birds", "x", *wrong)
                assert code != 0
                assert "hint: " in err
        finally:
            await served.stop()
