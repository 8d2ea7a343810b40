"""The native agent's way to the host's tools, against hosts that answer well, badly or not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runner.agent import tools
from runner.agent.chat import MALFORMED, Call, Function
from runner.agent.children import Children
from runner.agent.tools import host as host_module
from runner.agent.tools.box import Toolbox
from runner.agent.tools.host import HostTools
from runner.agent.tools.tool import Room
from runner.agent.tools.workspace import Workspace

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def offer(name: str) -> dict[str, Any]:
    return {"name": name, "description": f"{name}s", "inputSchema": SCHEMA}


class Host:
    """Answers each request with the next of ``answers``; keeps what it was asked."""

    def __init__(self, path: Path, *answers: object) -> None:
        self.path = path
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.hung_up = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                length = next(v for k, v in _fields(head) if k == "content-length")
                self.heads.append(head)
                self.asked.append(json.loads(await reader.readexactly(int(length))))
                answer = self.answers.pop(0)
                if answer is None:
                    await reader.read()  # says nothing until the agent hangs up
                    self.hung_up.set()
                    return
                writer.write(_response(answer))
                await writer.drain()
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return ""


def _fields(head: str) -> list[tuple[str, str]]:
    parts = [line.partition(": ") for line in head.split("\r\n")[1:]]
    return [(k.lower(), v) for k, _, v in parts]


def _response(answer: object) -> bytes:
    status = 200
    if isinstance(answer, int):
        status, body = answer, b"no"
    elif isinstance(answer, bytes):
        body = answer
    else:
        body = json.dumps({"jsonrpc": "2.0", "id": "x", "result": answer}).encode()
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def host(tmp_path: Path, *answers: object) -> AsyncIterator[tuple[Host, HostTools]]:
    made = Host(tmp_path / "s", *answers)
    credential = tmp_path / "token.json"
    credential.write_text('{"access_token": "scoped"}')
    server = await asyncio.start_unix_server(made.serve, made.path)
    try:
        yield made, HostTools(made.path, credential)
    finally:
        server.close()


def listed(*names: str, digest: str = "one") -> dict[str, Any]:
    return {"tools": [offer(n) for n in names], "_meta": {"nanokimi": {"tools": digest}}}


def names(box: Toolbox) -> list[str]:
    return [t["function"]["name"] for t in json.loads(box.schemas)]


def call(name: str, arguments: str = '{"text":"hi"}') -> Call:
    return Call(id="c", function=Function(name, arguments))


@pytest.fixture
async def room(tmp_path: Path) -> Room:
    return Room(Workspace(str(tmp_path)), Children())


async def test_the_hosts_tools_stand_behind_our_own_and_never_replace_one(tmp_path: Path) -> None:
    answer = listed("send_message", "bash", "not a name!", "ask_user")
    async with host(tmp_path, answer) as (made, host_tools):
        box = Toolbox(host_tools)
        assert box.schemas == tools.SCHEMAS
        await box.ready("one")
        own = [t["function"]["name"] for t in json.loads(tools.SCHEMAS)]
        assert names(box) == [*own, "send_message", "ask_user"]
        assert box.schemas.startswith(tools.SCHEMAS[:-1])
        assert "authorization: bearer scoped" in made.heads[0].lower()


async def test_the_list_is_asked_for_once_until_the_host_names_another(tmp_path: Path) -> None:
    answers = (listed("send_message"), listed("ask_user", digest="two"))
    async with host(tmp_path, *answers) as (made, host_tools):
        box = Toolbox(host_tools)
        box.warm()
        for _ in range(3):
            await box.ready("one")
        await box.ready(None)  # a client that names none
        assert len(made.asked) == 1
        before = box.schemas
        await box.ready("two")
        assert names(box)[-1] == "ask_user"
        assert box.schemas != before
        assert len(made.asked) == 2


@pytest.mark.parametrize("bad", [404, 401, b"", b"{", b'{"result": 7}', b"x" * (300 * 1024)])
async def test_a_host_without_a_list_has_no_tools_and_that_is_noted(
    tmp_path: Path, bad: object, capsys: pytest.CaptureFixture[str]
) -> None:
    async with host(tmp_path, bad, listed("send_message")) as (made, host_tools):
        box = Toolbox(host_tools)
        await box.ready("one")
        assert box.schemas == tools.SCHEMAS
        assert "tools.unavailable" in capsys.readouterr().err
        assert len(made.asked) == 1
        await box.ready("one")  # the next turn tries again
        assert names(box)[-1] == "send_message"


async def test_a_host_that_says_nothing_holds_a_turn_up_for_its_deadline_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "LIST_DEADLINE", 0.05)
    async with host(tmp_path, None) as (_, host_tools), asyncio.timeout(10):
        await host_tools.ready("one")
        assert host_tools.offers == ()


async def test_without_a_socket_there_is_nobody_to_ask(tmp_path: Path) -> None:
    box = Toolbox(HostTools(None, tmp_path / "none"))
    box.warm()
    await box.ready("one")
    assert box.schemas == tools.SCHEMAS


async def test_a_call_carries_its_key_and_brings_the_words_for_the_model(
    tmp_path: Path, room: Room
) -> None:
    said = {"content": [{"type": "text", "text": "no"}, {"type": "image"}], "isError": True}
    async with host(tmp_path, listed("send_message"), said) as (made, host_tools):
        box = Toolbox(host_tools)
        await box.ready("one")
        assert box.repeats(call("send_message"))
        assert not box.repeats(call("bash"))
        outcome = await box.run(call("send_message"), room, "2/c")
        assert (outcome.text, outcome.failed) == ("no\n", True)
        assert made.asked[1]["params"] == {
            "name": "send_message",
            "arguments": {"text": "hi"},
            "_meta": {"nanokimi": {"key": "2/c"}},
        }
        spoiled = await box.run(call("send_message", f'{{"{MALFORMED}":"x"}}'), room, "2/d")
        assert spoiled.failed
        assert len(made.asked) == 2  # what is no JSON never leaves


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (413, "the host answered 413"),
        (b"{", "cannot be read"),
        (b"x" * (1024 * 1024 + 1), "more than"),
        (b'{"error": {"code": -32601, "message": "no such method"}}', "no such method"),
    ],
)
async def test_a_host_that_fails_is_told_to_the_model(
    tmp_path: Path, room: Room, answer: object, why: str
) -> None:
    async with host(tmp_path, listed("send_message"), answer) as (_, host_tools):
        box = Toolbox(host_tools)
        await box.ready("one")
        outcome = await box.run(call("send_message"), room, "k")
        assert outcome.failed
        assert outcome.text.startswith("send_message failed: ")
        assert why in outcome.text


async def test_a_call_whose_answer_got_lost_is_made_again_under_its_key(
    tmp_path: Path, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "WAITS", (0.0, 0.0))
    said = {"content": [{"type": "text", "text": "sent"}]}
    async with host(tmp_path, listed("send_message"), 500, 503, said, 500, 500, 500) as (made, h):
        box = Toolbox(h)
        await box.ready("one")
        outcome = await box.run(call("send_message"), room, "k")
        assert (outcome.text, outcome.failed) == ("sent", False)
        keys = [a["params"]["_meta"]["nanokimi"]["key"] for a in made.asked[1:]]
        assert keys == ["k"] * 3
        assert (await box.run(call("send_message"), room, "l")).failed  # not for ever


async def test_a_cancelled_call_hangs_up(tmp_path: Path, room: Room) -> None:
    async with (
        host(tmp_path, listed("ask_user"), None) as (made, host_tools),
        asyncio.timeout(10),
    ):
        box = Toolbox(host_tools)
        await box.ready("one")
        calling = asyncio.create_task(box.run(call("ask_user"), room, "k"))
        while len(made.asked) < 2:
            await asyncio.sleep(0)
        calling.cancel()
        await asyncio.wait({calling})
        assert calling.cancelled()
        await made.hung_up.wait()
