"""A group's socket from the test's side, as a hostile or foreign agent in the sandbox has it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rig import Rig

from runner.model import folder_of
from runner.settings.layout import HOST_SOCKET

WAIT = {"command": "until [ -e go ]; do sleep 0.02; done; rm go"}


@dataclass
class Door:
    """The socket of a group whose sandbox is running."""

    path: Path
    token: str

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self.path)),
            base_url="http://nanokimi.internal",
            headers={
                "authorization": f"Bearer {self.token}",
                "accept": "application/json, text/event-stream",
            },
            timeout=30,
        )

    async def ask(self, method: str, **params: Any) -> httpx.Response:
        async with self.client() as client:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            return await client.post("/mcp", json=body)

    async def call(self, name: str, key: str = "", **arguments: Any) -> tuple[str, bool]:
        """What the model would be told, and whether the call failed."""
        meta = {"_meta": {"nanokimi": {"key": key}}} if key else {}
        answer = await self.ask("tools/call", name=name, arguments=arguments, **meta)
        assert answer.status_code == 200, answer.text
        result = answer.json()["result"]
        return str(result["content"][0]["text"]), bool(result.get("isError"))


def door(r: Rig, group: str) -> Door:
    folder = folder_of(group)
    credential = r.layout.credentials_projection(folder) / "kimi-code.json"
    token = json.loads(credential.read_text())["access_token"]
    # By its directory's descriptor: the paths of tests are longer than those of sockets may be.
    directory = os.open(r.layout.socket_dir(folder), os.O_PATH | os.O_DIRECTORY)
    made = Door(Path(f"/proc/self/fd/{directory}") / HOST_SOCKET, token)
    weakref.finalize(made, os.close, directory)
    return made


@contextlib.asynccontextmanager
async def turn_running(r: Rig, group: str, **more: Any) -> AsyncIterator[Door]:
    """Inside the block a turn of the group runs; it ends well after it."""
    workspace = r.layout.workspace(folder_of(group))
    text = f"!call bash {json.dumps(WAIT)}\n!say over"
    before = r.host.events.mark()
    asking = asyncio.create_task(r.ask(group, text, **more))
    try:
        async with asyncio.timeout(60):
            async for event in r.host.events.follow(group, before):
                if event.kind == "tool.started":
                    break
        yield door(r, group)
    finally:
        (workspace / "go").touch()
        assert await asking == "over"
