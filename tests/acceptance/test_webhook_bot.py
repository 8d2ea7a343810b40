"""The bot of docs/webhooks.md, as it stands there, with the call that it is shown with."""

import asyncio
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import httpx
from rig import log_in, write_config
from served import LISTEN, Served

from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout

PAGE = (Path(__file__).resolve().parents[2] / "docs/webhooks.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.S)
    assert found
    return found[1]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


async def test_the_bot_of_the_page_tells_what_is_signed_once(tmp_path: Path) -> None:
    layout, port = Layout(tmp_path / "data"), free_port()
    program = tmp_path / "bot.py"
    assert "9000" in block("python")
    program.write_text(block("python").replace("9000", str(port)))
    async with DemoProvider() as provider:
        write_config(layout, provider, more=LISTEN)
        log_in(layout, provider)
        served = Served(layout)
        await served.start()
        bot = await asyncio.create_subprocess_exec(
            *(sys.executable, str(program)),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert bot.stdout
        try:
            async with asyncio.timeout(60), httpx.AsyncClient() as client:
                url = f"http://127.0.0.1:{port}/"
                while True:
                    try:
                        forged = await client.post(
                            url, content=b"{}", headers={"x-nanokimi-signature": "sha256=00"}
                        )
                        break
                    except httpx.ConnectError:
                        await asyncio.sleep(0.02)
                assert forged.status_code == 401
                curl = shlex.split(block("sh").replace("\\\n", ""))
                assert curl[0] == "curl"
                assert curl[-1] == "http://127.0.0.1:8420/api/groups/birds/messages"
                body = curl[curl.index("-d") + 1].replace("http://127.0.0.1:9000/", url)
                answer = await client.post(
                    curl[-1].replace("http://127.0.0.1:8420", served.url),
                    content=body.replace("hello", "!say tweet"),
                    headers={
                        "authorization": f"Bearer {served.token}",
                        "content-type": "application/json",
                    },
                )
                assert answer.status_code == 202, answer.text
                assert await bot.stdout.readline() == b"birds tweet\n"
        finally:
            bot.kill()
            await bot.wait()
            await served.stop()
