"""Files that come with messages: over real HTTP into real sandboxes, past what agents plant."""

import asyncio
import base64
import hashlib
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
from runner.settings.layout import Layout

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


def form(text: str, *files: tuple[str, bytes], **more: Any) -> list[tuple[str, Any]]:
    message = ("message", (None, json.dumps({"text": text, **more})))
    return [message, *(("file", (name, data)) for name, data in files)]


async def post(http: httpx.AsyncClient, parts: list[tuple[str, Any]]) -> httpx.Response:
    return await http.post(f"{BIRDS}/messages", files=parts, params={"wait": 60})


def staged(r: Rig) -> list[str]:
    root = r.layout.root / "attachments"
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def kept(r: Rig) -> list[Path]:
    return sorted((r.layout.root / "files").rglob("file_*"))


async def test_a_form_brings_files_into_the_workspace_before_the_turn(
    r: Rig, http: httpx.AsyncClient
) -> None:
    big = os.urandom(60_000)
    look = "cd attachments/*; sha256sum 'my pic.png' | cut -c1-8; cat notes.txt; touch own"
    done = await post(
        http,
        form(f"{shell(look)}\n!say {{last}}", ("my pic.png", big), ("notes.txt", b"noted")),
    )
    assert done.status_code == 200, done.text
    assert hashlib.sha256(big).hexdigest()[:8] in done.json()["text"]
    assert "noted" in done.json()["text"]
    (message,) = (await http.get(f"{BIRDS}/messages")).json()["messages"]
    here = f"attachments/{message['message_id']}"
    assert message["attachments"] == [
        {"name": "my pic.png", "media_type": "image/png", "size": 60_000,
         "path": f"{here}/my pic.png"},
        {"name": "notes.txt", "media_type": "text/plain", "size": 5, "path": f"{here}/notes.txt"},
    ]  # fmt: skip
    (chat, *_) = r.provider.chats()
    prompt = json.dumps(chat.json["messages"])
    assert f"attachments/{message['message_id']}/my pic.png" in prompt


async def test_json_brings_files_as_base64(r: Rig, http: httpx.AsyncClient) -> None:
    data = base64.b64encode(b"\0\1binary").decode()
    body = {
        "text": f"{shell('od -An -c attachments/*/a.bin')}\n!say {{last}}",
        "attachments": [{"name": "../a.bin", "data": data}],
    }
    done = await http.post(f"{BIRDS}/messages", json=body, params={"wait": 60})
    assert "\\0 001   b" in done.json()["text"]


async def test_files_may_come_without_words(r: Rig, http: httpx.AsyncClient) -> None:
    done = await post(http, form("", ("a.txt", b"x")))
    assert done.status_code == 200
    assert (await post(http, form(""))).status_code == 422


async def test_the_same_message_again_writes_nothing_again(r: Rig, http: httpx.AsyncClient) -> None:
    parts = form("!say hi", ("a.txt", b"x"), external_id="1")
    first, second = await post(http, parts), await post(http, parts)
    assert first.json()["message_id"] == second.json()["message_id"]
    assert staged(r) == [f"{FOLDER}/{first.json()['message_id']}/a.txt"]


async def test_a_form_with_an_impossible_boundary_is_refused(http: httpx.AsyncClient) -> None:
    kind = f"multipart/form-data; boundary={'x' * 5000}"
    path = f"{group_path('birds')}/messages"
    answer = await http.post(path, content=b"--x", headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_form")


def bad_forms() -> dict[str, tuple[Any, int, str]]:
    files = [("x", b"1")] * 11
    return {
        "too large": (form("x", ("x", b"1" * 65_537)), 413, "attachment_too_large"),
        "too many": (form("x", *files), 413, "too_many_attachments"),
        "no message": ([("file", ("x", b"1"))], 422, "invalid_form"),
        "unknown field": ([*form("x", ("x", b"1")), ("more", (None, "1"))], 422, "invalid_form"),
        "bad JSON": ([("message", (None, "{")), ("file", ("x", b"1"))], 400, "bad_json"),
        "bad field": (form("x", ("x", b"1"), texd="y"), 422, "invalid_request"),
        "message last and wrong": ([("file", ("x", b"1")), ("message", (None, "[]"))], 422,
                                   "invalid_request"),
    }  # fmt: skip


@pytest.mark.parametrize("what", bad_forms())
async def test_a_wrong_form_is_refused_with_a_reason_and_leaves_nothing(
    r: Rig, http: httpx.AsyncClient, what: str
) -> None:
    parts, status, code = bad_forms()[what]
    answer = await post(http, parts)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert answer.json()["error"]["message"]
    assert not staged(r)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"text": "x", "attachments": [{"name": "a", "data": "!!"}]}, 422, "bad_attachment"),
        ({"text": "x", "attachments": [{"name": "a", "url": "http://x"}]}, 422, "invalid_request"),
        ({"text": "x", "attachments": [{"name": "a", "data": ""}] * 11}, 422, "invalid_request"),
        ({"text": "x", "attachments": [{"name": "a", "data": "AAAA" * 22_000}]}, 413,
         "attachment_too_large"),
        ({"text": "x" * (MIB + 100)}, 413, "body_too_large"),
    ],
)  # fmt: skip
async def test_wrong_attachments_in_json_are_refused_and_leave_nothing(
    r: Rig, http: httpx.AsyncClient, body: Any, status: int, code: str
) -> None:
    answer = await http.post(f"{BIRDS}/messages", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert not staged(r)


async def test_a_form_without_its_end_is_refused(r: Rig, http: httpx.AsyncClient) -> None:
    request = http.build_request("POST", f"{BIRDS}/messages", files=form("x", ("a", b"123")))
    whole = request.read()
    answer = await http.post(
        f"{BIRDS}/messages",
        content=whole[:-6],
        headers={"content-type": request.headers["content-type"]},
    )
    assert answer.status_code == 422
    assert not staged(r)


async def test_a_stranger_without_the_token_writes_nothing(r: Rig) -> None:
    async with httpx.AsyncClient(base_url=r.url) as stranger:
        answer = await stranger.post(f"{BIRDS}/messages", files=form("x", ("a", b"1")))
    assert answer.status_code == 401
    assert not (r.layout.root / "attachments").exists()


async def test_a_refused_message_leaves_no_files(r: Rig, http: httpx.AsyncClient) -> None:
    answer = await post(http, form("x" * 600_000, ("a", b"1")))
    assert answer.status_code == 413
    assert not staged(r)


async def test_planted_links_divert_no_attachment(r: Rig, http: httpx.AsyncClient) -> None:
    outside = r.layout.root / "canary"
    outside.mkdir(mode=0o777)
    workspace = r.layout.workspace(FOLDER)
    await r.ask("birds", shell(f"ln -s {outside} attachments"))
    done = await post(http, form(f"{shell('cat attachments/*/a.txt')}\n!say {{last}}",
                                 ("a.txt", b"arrived")))  # fmt: skip
    assert "arrived" in done.json()["text"]
    assert not list(outside.iterdir())
    assert not (workspace / "attachments").is_symlink()
    assert [p for p in workspace.iterdir() if p.name.startswith("aside-")]


async def test_a_turn_that_is_tried_again_finds_its_files_as_the_agent_left_them(
    r: Rig, http: httpx.AsyncClient
) -> None:
    done = await post(http, form("!say hi", ("a.txt", b"theirs")))
    (file,) = r.layout.workspace(FOLDER).glob("attachments/*/a.txt")
    file.write_text("changed by the agent")
    found = await r.host.store.messages("birds")
    await r.host.attachments.bring(FOLDER, found)
    assert file.read_text() == "changed by the agent"
    assert done.json()["message_id"] == found[0].id


async def test_files_go_when_their_message_is_answered_or_unknown(
    r: Rig, http: httpx.AsyncClient
) -> None:
    await post(http, form("!say hi", ("a.txt", b"x")))
    stray = r.layout.attachments(FOLDER) / "msg_stray"
    young = r.layout.attachments(FOLDER) / "msg_young"
    for made in (stray, young):
        made.mkdir()
    os.utime(stray, (1, 1))
    assert await r.host.attachments.sweep(keep=3600) == 2
    assert [p.name for p in r.layout.attachments(FOLDER).iterdir()] == ["msg_young"]
    assert list(r.layout.workspace(FOLDER).glob("attachments/*/a.txt"))


async def test_a_host_that_starts_sweeps_what_a_crash_left(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    left = [layout.attachments("some-group") / "msg_1", layout.files("some-group") / "file_1"]
    for path in left:
        path.parent.mkdir(parents=True)
    left[0].mkdir()
    left[1].write_text("")
    for path in left:
        os.utime(path, (1, 1))
    async with rig(tmp_path), asyncio.timeout(20):
        while any(path.exists() for path in left):
            await asyncio.sleep(0.02)


async def test_files_of_a_message_that_still_waits_stay(r: Rig, http: httpx.AsyncClient) -> None:
    r.provider.faults.add(_slow())
    await http.post(f"{BIRDS}/messages", json={"text": "first"})
    await r.until("birds", "turn.started")
    await http.post(f"{BIRDS}/messages", files=form("!say hi", ("a.txt", b"x")))
    assert len(staged(r)) == 1
    assert await r.host.attachments.sweep(keep=3600) == 0
    assert len(staged(r)) == 1


async def test_what_waits_for_one_group_is_bounded(
    r: Rig, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.host.attachments.STAGED_KEPT", 1)
    r.provider.faults.add(_slow())
    await http.post(f"{BIRDS}/messages", json={"text": "first"})
    await r.until("birds", "turn.started")
    codes = [
        (await http.post(f"{BIRDS}/messages", files=form("x", ("a", b"x" * 40_000)))).status_code
        for _ in range(2)
    ]
    assert codes == [202, 429]
    assert len(staged(r)) == 1


async def test_a_deleted_group_leaves_no_file(r: Rig, http: httpx.AsyncClient) -> None:
    await post(http, form(f"{shell('echo x > x')}\n{send('x')}", ("a.txt", b"x")))
    assert kept(r)
    assert staged(r)
    assert (await http.delete(BIRDS)).status_code == 204
    assert not kept(r)
    assert not staged(r)


async def test_ten_uploads_at_one_time_cost_no_memory(tmp_path: Path) -> None:
    def chunks(boundary: str) -> AsyncIterator[bytes]:
        async def run() -> AsyncIterator[bytes]:
            yield (
                f'--{boundary}\r\ncontent-disposition: form-data; name="message"\r\n\r\n'
                '{"text": "!say hi"}\r\n'
                f'--{boundary}\r\ncontent-disposition: form-data; name="f"; filename="a"\r\n\r\n'
            ).encode()
            for _ in range(300):
                yield b"x" * 65_536
            yield f"\r\n--{boundary}--\r\n".encode()

        return run()

    async with (
        rig(tmp_path) as r,
        httpx.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as http,
    ):
        before = _memory()

        async def one(n: int) -> int:
            answer = await http.post(
                f"{r.url}{group_path(f'g{n}')}/messages",
                content=chunks("b"),
                headers={"content-type": "multipart/form-data; boundary=b"},
            )
            return answer.status_code

        codes = await asyncio.gather(*(one(n) for n in range(10)))
        assert codes == [202] * 10
        assert _memory() - before < 60 * MIB  # of 187 MiB that came in


def _memory() -> int:
    """Bytes that this process has at most had resident since it was asked last."""
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def _slow() -> Any:
    return Fault(delay=20)
