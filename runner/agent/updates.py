"""What the client sees while a turn runs, as ``session/update``.

The text of all ``agent_message_chunk`` of a turn, joined, is its answer: between the texts of two
steps stands an empty line, sent as part of the second. The first chunk of each step carries
``_meta.nanokimi.step``. When a stream broke off after some text and is asked for again, an empty
chunk with ``_meta.nanokimi.reset`` comes first: the client drops the text of that step.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from runner.agent.chat import Call
from runner.agent.completion import Delta
from runner.model import Usage
from runner.wire import acp
from runner.wire.peer import Peer

# One update must fit a line of the wire, however its characters are escaped.
MAX_CHUNK = 256 * 1024
MAX_RAW_INPUT = 64 * 1024
MAX_TITLE = 100
BETWEEN_STEPS = "\n\n"


class Updates:
    """Sends the updates of one session. A new turn begins with :meth:`begin`."""

    def __init__(self, peer: Peer, session_id: str) -> None:
        self._peer = peer
        self._session_id = session_id
        self._step = 0
        self._said = False
        self._earlier = False

    def begin(self) -> None:
        """A turn begins: nothing was said yet."""
        self._step, self._said, self._earlier = 0, False, False

    def step(self, number: int) -> None:
        """The chunks that follow belong to step ``number``."""
        self._step = number
        self._earlier = self._earlier or self._said
        self._said = False

    async def heard(self, delta: Delta) -> None:
        """A part of the model's answer, as it came."""
        await self.thought(delta.reasoning)
        await self.text(delta.text)

    async def lost(self) -> None:
        """The answer broke off: its text is void."""
        if not self._said:
            return
        self._said = False
        await self._send(
            acp.AgentMessageChunk(content=_text(""), meta={"nanokimi": {"reset": True}})
        )

    async def text(self, text: str) -> None:
        if not text:
            return
        meta = None
        if not self._said:
            self._said = True
            meta = {"nanokimi": {"step": self._step}}
            text = BETWEEN_STEPS + text if self._earlier else text
        for piece in _pieces(text):
            await self._send(acp.AgentMessageChunk(content=_text(piece), meta=meta))
            meta = None

    async def thought(self, text: str) -> None:
        for piece in _pieces(text):
            await self._send(acp.AgentThoughtChunk(content=_text(piece)))

    async def user(self, text: str) -> None:
        """What a person said, when a session is replayed."""
        for piece in _pieces(text):
            await self._send(acp.UserMessageChunk(content=_text(piece)))

    async def tool_started(self, id_: str, call: Call, kind: str) -> None:
        arguments = call.function.arguments
        shown = arguments if len(arguments) <= MAX_RAW_INPUT else "{}"
        await self._send(
            acp.ToolCall(
                tool_call_id=id_,
                title=title_of(call),
                kind=kind,
                status="in_progress",
                raw_input=msgspec.Raw(shown.encode()),
            )
        )

    async def tool_finished(self, id_: str, text: str, *, failed: bool) -> None:
        await self._send(
            acp.ToolCallUpdate(
                tool_call_id=id_,
                status="failed" if failed else "completed",
                content=[{"type": "content", "content": {"type": "text", "text": text}}],
            )
        )

    async def usage(self, usage: Usage | None, size: int) -> None:
        if usage is not None and usage.input_tokens is not None:
            used = usage.input_tokens + (usage.output_tokens or 0)
            await self._send(acp.UsageUpdate(used=used, size=size))

    async def _send(self, update: acp.SessionUpdate) -> None:
        params = acp.UpdateParams(session_id=self._session_id, update=update)
        await self._peer.notify(acp.SESSION_UPDATE, params)


def tool_call_id(turn: str, step: int, call: str) -> str:
    """ACP's id of a call: the model repeats its ids from turn to turn, a session must not."""
    return f"{turn}/{step}/{call}"


def title_of(call: Call) -> str:
    """One line for people: the tool and its first argument."""
    try:
        arguments = msgspec.json.decode(call.function.arguments, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        arguments = {}
    first = next((v for v in arguments.values() if isinstance(v, str)), "")
    line = first.strip().split("\n", 1)[0]
    title = f"{call.function.name}: {line}" if line else call.function.name
    return title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 1] + "…"


def _text(text: str) -> acp.Content:
    return acp.Content(type="text", text=text)


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), MAX_CHUNK):
        yield text[start : start + MAX_CHUNK]
