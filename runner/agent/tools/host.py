"""The host's tools, over MCP at the socket that the sandbox has from it.

https://modelcontextprotocol.io/specification : stateless requests, each answered in JSON. A call
carries a key of its own, by which the host knows it again: what was called twice happens once, so a
call whose answer got lost may be made again.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from runner import __version__
from runner.agent.failures import ModelFailure
from runner.agent.notes import note
from runner.agent.tools.tool import Outcome
from runner.errors import LoginRequiredError
from runner.settings.container import read_token

if TYPE_CHECKING:
    from runner.agent.transport import Transport

PATH = "/mcp"
PROTOCOL = "2025-06-18"
# A host that has just started on a busy machine still loads what answers.
LIST_DEADLINE = 20.0
# A question to people may wait for long; the turn's deadline, which the host holds, ends it first.
LONGEST_CALL = 86_400.0
MAX_TOOLS = 64
MAX_LIST = 256 * 1024
MAX_ANSWER = 1024 * 1024
# Seconds before a lost call is made again.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
_BROKEN = 500
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Offer(msgspec.Struct, frozen=True, rename={"schema": "inputSchema"}):
    """One tool of the host; ``schema`` as it came."""

    name: str
    schema: msgspec.Raw
    description: str = ""


class _List(msgspec.Struct, rename={"meta": "_meta"}):
    tools: list[Offer]
    meta: dict[str, object] = {}


class _Content(msgspec.Struct):
    text: str = ""


class _Result(msgspec.Struct, rename={"failed": "isError"}):
    content: list[_Content] = []
    failed: bool = False


class _Error(msgspec.Struct):
    message: str = ""


class _Answer(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None


class HostFailure(Exception):
    """The host did not answer as it should; the text says how.

    ``lost``: it may have been heard all the same, and may answer another time.
    """

    def __init__(self, text: str, *, lost: bool = False) -> None:
        super().__init__(text)
        self.lost = lost


class HostTools:
    """``socket`` is ``None`` when no host is there: then there are no tools."""

    def __init__(self, socket: Path | None, credential: Path) -> None:
        self._socket = socket
        self._credential = credential
        self._transport: Transport | None = None
        self._digest: str | None = None
        self._listing: asyncio.Task[None] | None = None
        self.offers: tuple[Offer, ...] = ()

    def warm(self) -> None:
        """Ask for the list while nobody waits for it."""
        if self._socket is not None and self._listing is None:
            self._listing = asyncio.create_task(self._list(), name="list host tools")

    async def ready(self, digest: str | None) -> None:
        """Have the list that ``digest`` names; ``None``: any that the host gave.

        A host that gives no list has no tools, which is noted and not an error.
        """
        if self._socket is None:
            return
        failed_before = self._digest is None and self._listing is not None and self._listing.done()
        await self._listed()
        if failed_before or (self._digest is not None and digest not in (None, self._digest)):
            self._listing = None
            await self._listed()

    async def _listed(self) -> None:
        self.warm()
        if self._listing is not None:
            await asyncio.shield(self._listing)

    async def _list(self) -> None:
        try:
            async with asyncio.timeout(LIST_DEADLINE):
                found = msgspec.json.decode(await self._ask("tools/list", {}, MAX_LIST), type=_List)
        except (HostFailure, TimeoutError, msgspec.DecodeError, LoginRequiredError) as e:
            note("tools.unavailable", why=str(e) or f"no list within {LIST_DEADLINE:g} s")
            return
        self.offers = tuple(o for o in found.tools if _NAME.fullmatch(o.name))[:MAX_TOOLS]
        ours = found.meta.get("nanokimi")
        digest = ours.get("tools") if isinstance(ours, dict) else None
        self._digest = digest if isinstance(digest, str) else ""

    async def call(self, name: str, arguments: str, key: str) -> Outcome:
        """Run a call; ``arguments`` is JSON text of an object. Failures are for the model.

        A call whose answer got lost is made again: the host knows it by its key. While a host goes
        away this holds the call open, until the sandbox ends and the next one makes it.
        """
        params = {
            "name": name,
            "arguments": msgspec.Raw(arguments.encode()),
            "_meta": {"nanokimi": {"key": key}},
        }
        try:
            raw = await self._ask_again("tools/call", params, MAX_ANSWER)
            result = msgspec.json.decode(raw, type=_Result)
        except (HostFailure, msgspec.DecodeError, LoginRequiredError) as e:
            return Outcome(f"{name} failed: {e}", failed=True)
        return Outcome("\n".join(c.text for c in result.content), failed=result.failed)

    async def _ask_again(self, method: str, params: object, most: int) -> msgspec.Raw:
        for wait in WAITS:
            try:
                return await self._ask(method, params, most)
            except HostFailure as e:
                if not e.lost:
                    raise
                note("tools.again", wait=wait, why=str(e))
                await asyncio.sleep(wait)
        return await self._ask(method, params, most)

    async def _ask(self, method: str, params: object, most: int) -> msgspec.Raw:
        if self._transport is None:
            self._transport = await asyncio.to_thread(self._build)
        transport = self._transport
        asked = {"jsonrpc": "2.0", "id": os.urandom(8).hex(), "method": method, "params": params}
        headers = [*request_headers(self._credential), ("MCP-Protocol-Version", PROTOCOL)]
        try:
            async with transport.post(PATH, headers, msgspec.json.encode(asked)) as response:
                body = await response.all(most)
        except ModelFailure as e:
            raise HostFailure(f"the host cannot be reached ({e.code})", lost=True) from None
        if body is None:
            raise HostFailure(f"the host's answer has more than {most} bytes")
        if response.status != 200:
            lost = response.status >= _BROKEN
            raise HostFailure(f"the host answered {response.status}: {body[:200]!r}", lost=lost)
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
            raise HostFailure(f"the host's answer cannot be read: {e}") from None
        if answer.error is not None:
            raise HostFailure(answer.error.message[:1000])
        return answer.result

    def _build(self) -> Transport:
        from runner.agent.transport import Deadlines, Transport

        return Transport("http://nanokimi.internal", self._socket, Deadlines(idle=LONGEST_CALL))


def request_headers(credential: Path) -> list[tuple[str, str]]:
    """Headers of any request to the host. Raises: LoginRequiredError: there is no token."""
    return [
        ("Authorization", f"Bearer {read_token(credential)}"),
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
        ("User-Agent", f"nanokimi/{__version__}"),
    ]


def schemas_of(offers: Sequence[Offer]) -> list[bytes]:
    """Each offer as an entry of a request's ``tools``; equal offers give equal bytes."""
    return [
        msgspec.json.encode(
            {
                "type": "function",
                "function": {
                    "name": o.name,
                    "description": o.description,
                    "parameters": o.schema,
                },
            }
        )
        for o in offers
    ]
