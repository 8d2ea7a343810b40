"""One conversation with one agent in one sandbox, over ACP.

Everything the agent sends is a stranger's: its shape is checked by the wire, its amount by a
budget that is refilled for each turn, and what it says is bounded here before it becomes events.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import structlog

from runner import __version__
from runner.errors import (
    NanokimiError,
    PermanentError,
    ProtocolError,
    SandboxGoneError,
    TemporaryError,
)
from runner.host.hearing import Hearing, Secrets, TurnListener, ours
from runner.host.redact import redact
from runner.model import SANDBOX_MOVES, SandboxState, Usage, advance
from runner.sandbox.spawner import Program, Sandbox
from runner.wire import acp, rpc
from runner.wire.peer import Budget, Peer, Rejection

log = structlog.get_logger()

_R = TypeVar("_R")

MAX_FRAMES_PER_TURN = 200_000
MAX_BYTES_PER_TURN = 64 * 1024 * 1024
CALL_DEADLINE = 30.0
LONGEST_WISH = 86_400
# Conversations that an agent keeps open at one time; our own has room for one more.
MAX_SESSIONS = 12


@dataclass(frozen=True, slots=True)
class Answer:
    """How a prompt ended: ``text`` is everything the agent said in this turn.

    ``heard`` are the messages that it was steered with and that the model has been told;
    ``None`` when the agent does not say.
    """

    text: str
    stop_reason: acp.StopReason
    usage: Usage | None
    heard: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class HostOffers:
    """What the host does for the agent: ``servers`` are MCP servers to start inside the sandbox,
    ``digest`` names the tools of a group's running turn, so that the native agent asks for their
    list only when it has changed.
    """

    servers: tuple[Program, ...]
    digest: Callable[[str], str]


class AgentSession:
    """Made by :meth:`open`; ends with :meth:`close`. One prompt at a time."""

    def __init__(self, sandbox: Sandbox, secrets: Secrets, offers: HostOffers) -> None:
        self.sandbox = sandbox
        self._secrets = secrets
        self._offers = offers
        self._servers = [_server(program) for program in offers.servers]
        self.session_id = ""
        self.steers = False
        self._can = acp.AgentCapabilities()
        self._open_sessions: dict[str, str] = {}
        self.state = SandboxState.CREATING
        self._turn: Hearing | None = None
        self._condemned: NanokimiError | None = None
        self._budget = Budget(MAX_FRAMES_PER_TURN, MAX_BYTES_PER_TURN)
        self._peer = Peer(
            sandbox.streams,
            on_request=self._on_request,
            on_notification=self._on_notification,
            budget=self._budget,
        )
        self._reader = asyncio.create_task(
            self._peer.run(), name=f"read agent of {sandbox.info.folder}"
        )
        self._reader.add_done_callback(_seen)

    @classmethod
    async def open(
        cls,
        sandbox: Sandbox,
        session_id: str,
        deadline: float,
        secrets: Secrets,
        offers: HostOffers,
    ) -> AgentSession:
        """Shake hands, and take up ``session_id`` or begin a new session within ``deadline`` s.

        What ``secrets`` gives is taken out of everything that the agent says.

        Raises:
            SandboxGoneError: the agent ended or did not answer in time.
            ProtocolError: it is not an ACP v1 agent.
            PermanentError: the agent says that its configuration is wrong.
        """
        self = cls(sandbox, secrets, offers)
        try:
            async with asyncio.timeout(deadline):
                await self._open(session_id)
        except TimeoutError:
            await self.close()
            raise SandboxGoneError(
                f"the agent did not answer within {deadline:g} s",
                hint=self._last_words(),
                code="agent_start_timeout",
            ) from None
        except BaseException:
            await self.close()
            raise
        self._move(SandboxState.READY)
        return self

    async def _open(self, session_id: str) -> None:
        hello = await self._call(
            acp.INITIALIZE,
            acp.InitializeParams(
                protocol_version=acp.PROTOCOL_VERSION,
                client_capabilities={},
                client_info=acp.Implementation(name="nanokimi", version=__version__),
            ),
            acp.InitializeResult,
        )
        if hello.protocol_version != acp.PROTOCOL_VERSION:
            raise PermanentError(
                f"the agent speaks ACP version {hello.protocol_version}, "
                f"we speak {acp.PROTOCOL_VERSION}",
                hint="use an image and a host of the same release: `nanokimi build`",
                code="protocol_version",
            )
        self._can = hello.agent_capabilities or acp.AgentCapabilities()
        self.steers = ours(hello.meta).get("steer") is True
        await self.converse("", session_id)

    async def converse(self, name: str, session_id: str) -> str:
        """Go over to the conversation ``name`` of the group, empty for its own, before a prompt.

        ``session_id`` is the agent's name for it, as far as it is known; returns the name it has.
        """
        if name in self._open_sessions:
            self.session_id = self._open_sessions[name]
            return self.session_id
        if not (session_id and await self._take_up(session_id)):
            session_id = await self._begin()
        self.session_id = self._open_sessions[name] = session_id
        if len(self._open_sessions) > MAX_SESSIONS:  # it is taken up again when it is needed
            del self._open_sessions[next(iter(self._open_sessions))]
        return session_id

    async def _begin(self) -> str:
        made = await self._call(
            acp.SESSION_NEW,
            acp.NewSessionParams(cwd=self.sandbox.workspace, mcp_servers=self._servers),
            acp.NewSessionResult,
        )
        return made.session_id

    async def _take_up(self, session_id: str) -> bool:
        can = self._can
        resumes = can.session_capabilities is not None and (
            can.session_capabilities.resume is not None
        )
        if not resumes and not can.load_session:
            return False
        params = acp.LoadSessionParams(
            session_id=session_id, cwd=self.sandbox.workspace, mcp_servers=self._servers
        )
        method = acp.SESSION_RESUME if resumes else acp.SESSION_LOAD
        try:
            await self._call(method, params, msgspec.Raw)  # null or an object, both fine
        except NanokimiError as e:
            if e.code != "session_unknown":
                raise
            log.warning(
                "session.lost", group=self.sandbox.info.group, session=session_id, why=e.message
            )
            return False
        return True

    # -- turns ----------------------------------------------------------------------------------

    async def prompt(self, turn_id: str, text: str, listener: TurnListener) -> Answer:
        """Run one turn to its end; the caller sets the deadline.

        Raises:
            TemporaryError, PermanentError: what the agent says went wrong, with its code and hint.
            SandboxGoneError, ProtocolError: the sandbox is of no more use; close it.
        """
        turn = self._turn = Hearing(listener, self._secrets)
        group = self.sandbox.info.group
        told = {"turn": turn_id, "group": group, "tools": self._offers.digest(group)}
        self._budget.refill()
        self._move(SandboxState.BUSY)
        try:
            result = await self._call(
                acp.SESSION_PROMPT,
                acp.PromptParams(
                    session_id=self.session_id,
                    prompt=[acp.Content(type="text", text=text)],
                    meta={"nanokimi": told},
                ),
                acp.PromptResult,
                deadline=None,
            )
        finally:
            self._turn = None
            if self.state is SandboxState.BUSY:
                self._move(SandboxState.IDLE)
        return Answer(turn.end(), result.stop_reason, _usage(result.usage), _heard(result.meta))

    async def steer(self, message_id: str, text: str) -> None:
        """Bring a message to the running turn; when this returns the agent has it on disk.

        The same id again is the same message, in whatever sandbox.

        Raises:
            PermanentError: the turn ends or has ended, and does not hear it.
            SandboxGoneError, ProtocolError: the sandbox is of no more use.
        """
        params = acp.SteerParams(session_id=self.session_id, text=text, id=message_id)
        await self._call(acp.STEER, params, msgspec.Raw)

    async def cancel(self) -> None:
        """Ask the agent to end the running turn; its prompt then ends as ``cancelled``."""
        with contextlib.suppress(SandboxGoneError):
            await self._peer.notify(
                acp.SESSION_CANCEL, acp.CancelParams(session_id=self.session_id)
            )

    def condemn(self, why: NanokimiError) -> None:
        """End it: whatever is asked of the agent, now or later, fails with ``why``."""
        self._condemned = why
        self.sandbox.streams.abort()

    @property
    def alive(self) -> bool:
        """False once the agent's stdout has ended."""
        return not self._reader.done()

    async def close(self) -> None:
        """Drop the streams. The sandbox itself is ended by whoever made it."""
        if self.state is not SandboxState.GONE:
            if self.state is not SandboxState.STOPPING:
                self._move(SandboxState.STOPPING)
            self.sandbox.streams.abort()
            self._reader.cancel()
            await asyncio.wait([self._reader])
            self._move(SandboxState.GONE)

    # -- the wire -------------------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        params: object,
        result: type[_R],
        *,
        deadline: float | None = CALL_DEADLINE,
    ) -> _R:
        try:
            return await self._peer.request(method, params, result, timeout=deadline)
        except rpc.RemoteError as e:
            raise _explain(method, redact(msgspec.to_builtins(e.error), self._secrets())) from None
        except TimeoutError:
            raise SandboxGoneError(
                f"the agent did not answer {method} within {deadline:g} s",
                hint=self._last_words(),
                code="agent_silent",
            ) from None
        except ProtocolError as e:
            raise ProtocolError(
                f"the agent broke the protocol: {e.message}", hint=e.hint, code=e.code
            ) from None
        except SandboxGoneError as e:
            if self._condemned is not None:
                raise self._condemned from None
            raise SandboxGoneError(
                "the agent ended before it answered", hint=self._last_words(), code=e.code
            ) from None

    async def _on_request(self, method: str, params: msgspec.Raw) -> object:
        if method == acp.REQUEST_PERMISSION:
            # Inside its sandbox the agent may do what it likes: the walls are the permission.
            options = acp.parse(acp.PermissionParams, params).options
            allowed = [o.option_id for o in options if o.kind in ("allow_once", "allow_always")]
            if allowed:
                return {"outcome": {"outcome": "selected", "optionId": allowed[0]}}
            return {"outcome": {"outcome": "cancelled"}}
        raise Rejection(rpc.METHOD_NOT_FOUND, f"the host does not offer {method[:80]!r}")

    def _on_notification(self, method: str, params: msgspec.Raw) -> None:
        if method != acp.SESSION_UPDATE:
            return
        try:
            _session, update = acp.parse_update(params)
        except msgspec.DecodeError as e:
            raise ProtocolError(f"a wrong session/update: {e}", code="protocol_bad_frame") from None
        if self._turn is not None and update is not None:
            self._turn.hear(update)

    def _move(self, new: SandboxState) -> None:
        self.state = advance(SANDBOX_MOVES, self.state, new)

    def _last_words(self) -> str:
        tail = redact(self.sandbox.streams.stderr_tail().strip(), self._secrets())
        return f"its last words: {tail[-400:]}" if tail else "it said nothing on stderr"


def _server(program: Program) -> dict[str, Any]:
    """An ``mcpServers`` entry: https://agentclientprotocol.com/protocol/session-setup"""
    return {
        "name": "nanokimi",
        "command": program.path,
        "args": list(program.arguments),
        "env": [{"name": k, "value": v} for k, v in program.environment.items()],
    }


def _heard(meta: dict[str, Any] | None) -> frozenset[str] | None:
    heard = ours(meta).get("heard")
    return frozenset(map(str, heard)) if isinstance(heard, list) else None


def _usage(u: acp.Usage | None) -> Usage | None:
    if u is None:
        return None
    return Usage(u.input_tokens, u.cached_read_tokens, u.output_tokens, u.thought_tokens)


def _explain(method: str, told: dict[str, Any]) -> NanokimiError:
    """An agent's JSON-RPC error as one of ours; ``data`` of the native agent says the most."""
    error = msgspec.convert(told, rpc.RpcError)
    data = error.data if isinstance(error.data, dict) else {}
    code, hint, after = data.get("code"), data.get("hint"), data.get("retryAfter")
    hint = hint[:1000] if isinstance(hint, str) else ""
    message = error.message[:2000]
    if error.code == acp.RESOURCE_NOT_FOUND and method != acp.SESSION_PROMPT:
        return PermanentError(message, hint=hint, code="session_unknown")
    code = code[:60] if isinstance(code, str) else "agent_error"
    if data.get("retryable") is True:
        return TemporaryError(
            message,
            hint=hint,
            code=code,
            retry_after=float(after)
            if isinstance(after, int | float) and 0 <= after <= LONGEST_WISH
            else None,
        )
    return PermanentError(message, hint=hint, code=code)


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # open requests were told; nobody else waits for it
