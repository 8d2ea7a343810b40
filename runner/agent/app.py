"""The agent's side of ACP v1: sessions, and one running turn in each.

https://agentclientprotocol.com/protocol/overview ; ours are ``_nanokimi/steer {sessionId, text,
id}``; ``_meta.nanokimi = {turn, group, tools}`` on prompts, where ``tools`` names the host's offers
of now, ``{heard}`` on their results, and ``{steer}`` in the answer to ``initialize``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from pathlib import Path
from typing import Any

import msgspec

from runner import __version__
from runner.agent.children import Children
from runner.agent.failures import ModelFailure
from runner.agent.notes import complain, note
from runner.agent.provider import Model
from runner.agent.session import Session
from runner.agent.stdio import StdioChannel
from runner.agent.tools.box import Toolbox
from runner.agent.tools.host import HostTools
from runner.agent.tools.tool import Room
from runner.agent.tools.workspace import Workspace
from runner.agent.turn import Turn
from runner.agent.updates import Updates
from runner.errors import (
    BusyError,
    ConfigError,
    LoginRequiredError,
    NanokimiError,
    NotFoundError,
    PermanentError,
    ProtocolError,
    TemporaryError,
)
from runner.settings.container import ContainerSettings, load_container_settings
from runner.wire import acp, rpc
from runner.wire.peer import Peer, Rejection

RUN_DIR = "/run/nanokimi"
CLOSE_DEADLINE = 1.5
MAX_SESSIONS = 16


async def serve(read_fd: int, write_fd: int) -> int:
    """Serve one client until it leaves or a signal comes; return the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    home = Path(os.environ.get("HOME", "/"))
    settings = _load(home)
    channel = StdioChannel(read_fd, write_fd)
    app = App(settings, home, channel, stop)
    reading = asyncio.create_task(app.peer.run(), name="protocol")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    failed = reading.exception() if reading.done() else None
    await app.close()
    if isinstance(failed, ProtocolError):
        complain(f"the client broke the protocol: {failed.message}", failed.hint)
    elif failed is not None:
        traceback.print_exception(failed)
    if isinstance(settings, ConfigError):
        complain(settings.message, settings.hint)
        return settings.exit_code
    return 1 if failed is not None else 0


class App:
    """Answers the client's calls. ``settings`` may be the error that ``initialize`` answers."""

    def __init__(
        self,
        settings: ContainerSettings | ConfigError,
        home: Path,
        channel: StdioChannel,
        stop: asyncio.Event,
    ) -> None:
        self.peer = Peer(channel, on_request=self._on_request, on_notification=self._on_notice)
        self._settings = settings
        self._sessions_dir = home / ".kimi" / "sessions"
        self._channel = channel
        self._stop = stop
        self._children = Children()
        self._sessions: dict[str, Session] = {}
        self._turns: dict[str, Turn] = {}
        self._tasks: set[asyncio.Task[acp.PromptResult]] = set()
        self._model: Model | None = None
        self._box: Toolbox | None = None

    async def close(self) -> None:
        """End the turns where they stand, and every process of theirs."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_DEADLINE)
        self._children.end_all()
        for session in self._sessions.values():
            session.close()

    async def _on_request(self, method: str, params: msgspec.Raw) -> object:
        try:
            return await self._call(method, params)
        except (Rejection, msgspec.DecodeError):
            raise
        except NotFoundError as e:
            raise Rejection(acp.RESOURCE_NOT_FOUND, e.message, _data(e)) from None
        except NanokimiError as e:
            raise Rejection(_rpc_code(e), e.message, _data(e)) from None
        except Exception as e:  # noqa: BLE001  the client must hear of a bug, and the rest lives
            traceback.print_exc()
            data = {"code": "internal", "hint": "see the agent's log", "retryable": True}
            raise Rejection(rpc.INTERNAL_ERROR, f"a bug in the agent: {e!r}", data) from None

    async def _call(self, method: str, params: msgspec.Raw) -> object:
        match method:
            case acp.INITIALIZE:
                return self._initialize(acp.parse(acp.InitializeParams, params))
            case acp.AUTHENTICATE:
                return {}
            case acp.SESSION_NEW:
                return self._new(acp.parse(acp.NewSessionParams, params))
            case acp.SESSION_LOAD:
                return await self._load(acp.parse(acp.LoadSessionParams, params))
            case acp.SESSION_RESUME:
                self._open(acp.parse(acp.LoadSessionParams, params))
                return {}
            case acp.SESSION_PROMPT:
                return await self._prompt(acp.parse(acp.PromptParams, params))
            case acp.STEER:
                return await self._steer(acp.parse(acp.SteerParams, params))
            case _:
                raise Rejection(rpc.METHOD_NOT_FOUND, f"there is no method {method[:100]!r}")

    def _on_notice(self, method: str, params: msgspec.Raw) -> None:
        if method != acp.SESSION_CANCEL:
            return
        try:
            id_ = acp.parse(acp.CancelParams, params).session_id
        except msgspec.DecodeError as e:
            note("cancel.malformed", why=str(e))
            return
        # A prompt that was read just before has its task, but the task has not begun: let it.
        asyncio.get_running_loop().call_soon(self._cancel, id_)

    def _cancel(self, session_id: str) -> None:
        if session_id in self._turns:
            self._turns[session_id].cancel()

    def _initialize(self, params: acp.InitializeParams) -> acp.InitializeResult:
        if isinstance(self._settings, ConfigError):
            self._channel.after_next_write(self._stop.set)
            raise self._settings
        self._channel.after_next_write(self._warm)
        return acp.InitializeResult(
            protocol_version=acp.PROTOCOL_VERSION,
            agent_capabilities=acp.AgentCapabilities(
                load_session=True,
                prompt_capabilities=acp.PromptCapabilities(),
                session_capabilities=acp.SessionCapabilities(resume={}),
            ),
            agent_info=acp.Implementation(
                name="nanokimi-agent", version=__version__, title="nanokimi agent"
            ),
            auth_methods=[],
            meta={"nanokimi": {"steer": True}},
        )

    def _new(self, params: acp.NewSessionParams) -> acp.NewSessionResult:
        self._ready()
        cwd = _checked_cwd(params.cwd)
        self._make_room()
        session = Session.create(self._sessions_dir, cwd)
        self._sessions[session.id] = session
        return acp.NewSessionResult(session_id=session.id)

    async def _load(self, params: acp.LoadSessionParams) -> dict[str, Any]:
        session = self._open(params)
        await session.replay(Updates(self.peer, session.id))
        return {}

    def _open(self, params: acp.LoadSessionParams) -> Session:
        self._ready()
        cwd = _checked_cwd(params.cwd)
        session = self._sessions.get(params.session_id)
        if session is None:
            self._make_room()
            session = Session.open(self._sessions_dir, params.session_id, cwd)
        else:
            del self._sessions[session.id]
        self._sessions[session.id] = session  # the last to be taken up
        session.cwd = cwd
        return session

    async def _prompt(self, params: acp.PromptParams) -> acp.PromptResult:
        settings, model, box = self._ready()
        session = self._known(params.session_id)
        text = "".join(map(_text_of, params.prompt))
        if not text.strip():
            raise Rejection(rpc.INVALID_PARAMS, "the prompt has no text")
        if session.id in self._turns:
            raise BusyError("a turn runs in this session", hint="steer it, or cancel it first")
        turn = Turn(
            _turn_id(params.meta),
            session,
            model,
            settings,
            Room(Workspace(session.cwd), self._children),
            Updates(self.peer, session.id),
            box,
            _offers(params.meta),
        )
        task = turn.start(text)
        self._turns[session.id] = turn
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await task
        except asyncio.CancelledError:
            if turn.cancelled and task.cancelled():  # before it took its first step
                return acp.PromptResult(stop_reason="cancelled")
            raise
        finally:
            self._turns.pop(session.id, None)

    async def _steer(self, params: acp.SteerParams) -> dict[str, Any]:
        session = self._known(params.session_id)
        running = self._turns.get(session.id)
        if running is not None:
            new = await running.steer(params.text, params.id)
            return {} if new else {"known": True}
        if params.id and session.talk.knows(params.id):
            return {"known": True}
        raise PermanentError("no turn runs in this session", hint="prompt it", code="no_turn")

    def _known(self, id_: str) -> Session:
        if id_ not in self._sessions:
            raise NotFoundError(
                f"the session {id_[:80]!r} is not open", hint="session/new or session/load first"
            )
        return self._sessions[id_]

    def _make_room(self) -> None:
        """Close the session that was taken up first and is idle when there are too many."""
        if len(self._sessions) >= MAX_SESSIONS:
            idle = next((id_ for id_ in self._sessions if id_ not in self._turns), None)
            if idle is None:
                raise BusyError("too many sessions are running", hint="wait for one to end")
            self._sessions.pop(idle).close()

    def _ready(self) -> tuple[ContainerSettings, Model, Toolbox]:
        if isinstance(self._settings, ConfigError):
            raise self._settings
        if self._model is None or self._box is None:
            run_dir = Path(os.environ.get("NANOKIMI_RUN_DIR", RUN_DIR))
            self._model = Model(self._settings, run_dir)
            socket = self._settings.tools_socket
            host = HostTools(run_dir / socket if socket else None, self._settings.tools_credential)
            self._box = Toolbox(host)
        return self._settings, self._model, self._box

    def _warm(self) -> None:
        """Use the time until the first prompt: the client is busy making its session."""
        _, model, box = self._ready()
        model.warm()
        box.warm()


def _load(home: Path) -> ContainerSettings | ConfigError:
    try:
        return load_container_settings(home)
    except ConfigError as e:
        return e
    except (TypeError, ValueError, AttributeError) as e:
        return ConfigError(
            f"{home}/.kimi/config.toml holds a value of the wrong kind: {e}",
            hint="run `nanokimi doctor`",
        )


def _checked_cwd(cwd: str) -> str:
    if not os.path.isabs(cwd) or "\0" in cwd or not os.path.isdir(cwd):  # noqa: PTH112, PTH117
        raise Rejection(rpc.INVALID_PARAMS, f"cwd is not an absolute, existing path: {cwd[:200]!r}")
    return cwd


def _text_of(block: acp.Content) -> str:
    if block.type == "resource_link":
        return f"\n[{block.uri or ''}]"
    return block.text or "" if block.type == "text" else ""


def _turn_id(meta: dict[str, Any] | None) -> str:
    ours = (meta or {}).get("nanokimi")
    id_ = ours.get("turn") if isinstance(ours, dict) else None
    return id_ if isinstance(id_, str) and 0 < len(id_) <= 256 else os.urandom(16).hex()


def _offers(meta: dict[str, Any] | None) -> str | None:
    """The digest of the tools that the host offers for a turn, if it says so."""
    ours = (meta or {}).get("nanokimi")
    digest = ours.get("tools") if isinstance(ours, dict) else None
    return digest if isinstance(digest, str) else None


def _rpc_code(e: NanokimiError) -> int:
    return acp.AUTH_REQUIRED if e.code == LoginRequiredError.code else rpc.INTERNAL_ERROR


def _data(e: NanokimiError) -> dict[str, object]:
    if isinstance(e, ModelFailure):
        retryable, after = e.retryable, e.retry_after
    else:
        retryable = isinstance(e, TemporaryError)
        after = e.retry_after if isinstance(e, TemporaryError) else None
    return {"code": e.code, "hint": e.hint, "retryable": retryable, "retryAfter": after}
