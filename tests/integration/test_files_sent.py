"""Files that agents send: through real sandboxes, past what they plant, out over real HTTP."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rig import TOKEN, Rig, group_path, rig

from runner.demo.faults import Fault
from runner.model import folder_of

MIB = 1 << 20
SMALL = '[tools.send_file]\nmax_size = "64k"\nper_turn = 3'
BIRDS = group_path("birds")
FOLDER = folder_of("birds")


@pytest.fixture
async def r(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path, more=SMALL) as made:
        yield made


@pytest.fixture
async def http(r: Rig) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=r.url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
    ) as client:
        yield client


def send(path: str, **more: Any) -> str:
    return f"!call send_file {json.dumps({'path': path, **more})}"


def shell(command: str) -> str:
    return f"!call bash {json.dumps({'command': command})}"


def kept(r: Rig) -> list[Path]:
    return sorted((r.layout.root / "files").rglob("file_*"))


async def test_a_file_of_the_workspace_is_sent_and_downloaded(
    r: Rig, http: httpx.AsyncClient
) -> None:
    make = shell("mkdir -p out && printf 'a,b\\n1,2\\n' > 'out/ta ble.csv'")
    events = await r.say(
        "birds", f"{make}\n{send('out/ta ble.csv', caption='here')}\n!say {{last}}"
    )
    assert events[-1].data["text"] == "sent ta ble.csv (8 bytes)"
    (sent,) = [e.data for e in events if e.kind == "file.sent"]
    assert {k: sent[k] for k in ("name", "media_type", "size", "caption")} == {
        "name": "ta ble.csv", "media_type": "text/csv", "size": 8, "caption": "here",
    }  # fmt: skip
    assert sent["turn_id"] == events[-1].data["turn_id"]

    listed = (await http.get(f"{BIRDS}/files")).json()["files"]
    assert [(f["file_id"], f["url"]) for f in listed] == [(sent["file_id"], sent["url"])]
    got = await http.get(sent["url"])
    assert got.content == b"a,b\n1,2\n"
    assert got.headers["content-disposition"].startswith("attachment;")
    assert got.headers["x-content-type-options"] == "nosniff"
    (path,) = kept(r)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_uid == os.geteuid()


async def test_a_page_is_never_shown_by_a_browser(r: Rig, http: httpx.AsyncClient) -> None:
    await r.ask("birds", f"{shell('echo page > x.html')}\n{send('x.html')}")
    (file,) = (await http.get(f"{BIRDS}/files")).json()["files"]
    got = await http.get(file["url"])
    assert got.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in got.headers["content-security-policy"]
    assert got.headers["content-disposition"].startswith("attachment")


async def test_a_file_is_its_groups_alone(r: Rig, http: httpx.AsyncClient) -> None:
    await r.ask("birds", f"{shell('echo x > x')}\n{send('x')}")
    await r.ask("others", "!say hi")
    (file,) = (await http.get(f"{BIRDS}/files")).json()["files"]
    for path in (
        f"{group_path('others')}/files/{file['file_id']}",
        f"{group_path('nobody')}/files/{file['file_id']}",
        f"{BIRDS}/files/file_000",
        f"{BIRDS}/files/..%2F..%2Fnanokimi.db",
    ):
        assert (await http.get(path)).status_code == 404, path
    assert (await http.get(file["url"], headers={"authorization": "Bearer x"})).status_code == 401
    assert (await http.get(f"{group_path('others')}/files")).json() == {"files": []}


@pytest.mark.parametrize(
    ("plant", "path"),
    [
        ("ln -s /etc/passwd x", "x"),
        ("ln -s / x", "x/etc/passwd"),
        ("ln -s /home/agent/.kimi/credentials x", "x/kimi-code.json"),
        ("mkfifo x", "x"),
        ("mkdir x", "x"),
        ("true", "../../nanokimi.db"),
        ("true", "/etc/passwd"),
        ("truncate -s 1T x", "x"),
        ("head -c 65537 /dev/zero > x", "x"),
        ("true", "missing"),
    ],
)
async def test_what_is_no_plain_small_file_of_the_workspace_is_not_sent(
    r: Rig, http: httpx.AsyncClient, plant: str, path: str
) -> None:
    answer = await r.ask("birds", f"{shell(plant)}\n{send(path)}\n!say {{last}}")
    assert "sent" not in answer
    assert not kept(r)
    assert (await http.get(f"{BIRDS}/files")).json() == {"files": []}


async def test_a_link_that_leads_to_other_groups_on_the_host_sends_nothing(r: Rig) -> None:
    """What a path means to the host, not to the sandbox: here the host's own paths are planted."""
    await r.ask("others", shell("echo secret > theirs"))
    theirs = r.layout.workspace(folder_of("others")) / "theirs"
    await r.ask("birds", shell(f"ln -s {theirs} x; ln -s {r.layout.database} db"))
    for path in ("x", "db"):
        assert "link" in await r.ask("birds", f"{send(path)}\n!say {{last}}")
    assert not kept(r)


async def test_a_call_that_is_made_again_sends_once(r: Rig, http: httpx.AsyncClient) -> None:
    """As an agent does that never heard the answer: the same call, by the same name."""
    await r.ask("birds", shell("echo one > x"))
    r.provider.faults.add(Fault(delay=20))
    await http.post(f"{BIRDS}/messages", json={"text": "work"})
    async with asyncio.timeout(20):
        while r.host.running("birds") is None:
            await asyncio.sleep(0.01)
    desk = r.host.tools._desk
    arguments = {"path": "x"}
    said = [await desk.call("birds", "send_file", arguments, "call-1") for _ in range(2)]
    both = await asyncio.gather(
        *(desk.call("birds", "send_file", arguments, "call-2") for _ in range(2))
    )
    assert {s.text for s in (*said, *both)} == {"sent x (4 bytes)"}
    assert len(kept(r)) == 2
    assert len((await http.get(f"{BIRDS}/files")).json()["files"]) == 2
    assert len([e for e in await r.events("birds") if e["kind"] == "file.sent"]) == 2


async def test_a_turn_sends_as_many_files_as_it_may(r: Rig) -> None:
    await r.ask("birds", shell("echo x > x"))
    calls = "\n".join([send("x")] * 5)
    answer = await r.ask("birds", f"{calls}\n!say {{last}}")
    assert "3 times" in answer
    assert len(kept(r)) == 3


async def test_the_oldest_files_of_a_group_make_room(
    r: Rig, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.host.tools.files.FILES_KEPT", 2)
    await r.ask("birds", shell("for i in 1 2 3; do head -c 60000 /dev/zero > $i; done"))
    for i in (1, 2, 3):
        await r.ask("birds", send(str(i)))
    names = [f["name"] for f in (await http.get(f"{BIRDS}/files")).json()["files"]]
    assert names == ["3", "2"]
    assert len(kept(r)) == 2


async def test_files_that_are_too_old_go_and_so_do_bytes_that_nobody_knows(
    r: Rig, http: httpx.AsyncClient
) -> None:
    await r.ask("birds", f"{shell('echo x > x')}\n{send('x')}")
    (path,) = kept(r)
    orphan, new = path.parent / "file_orphan", path.parent / "file_new"
    for stray in (orphan, new):
        stray.write_text("")
    os.utime(orphan, (1, 1))
    assert await r.host.files.sweep(keep=3600) == 1
    assert path.exists()
    assert new.exists()  # it may be on its way in
    assert not orphan.exists()
    assert await r.host.files.sweep(keep=-1) == 1
    assert not path.exists()
    assert (await http.get(f"{BIRDS}/files")).json() == {"files": []}
