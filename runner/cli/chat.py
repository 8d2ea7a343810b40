"""``nanokimi chat``: talk to a group's agent from a terminal."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.api.client import Api, ServerEvent, group_path
from runner.cli.connection import connect
from runner.cli.context import Context, context_of, run
from runner.cli.output import err, note, show_error, visible
from runner.errors import (
    ENGINE_SILENT,
    EngineError,
    LoginRequiredError,
    NanokimiError,
    PermanentError,
)

# Where a turn's failure leaves the command (see the exit codes in the docs).
_EXIT_CODES = {"login_required": 3, "engine_unavailable": 4, ENGINE_SILENT: 4, "image_missing": 4}


def chat(
    ctx: typer.Context,
    group: Annotated[str, typer.Argument(help="The group to talk in.")] = "terminal",
    message: Annotated[
        str | None, typer.Option("-m", "--message", help="One message instead of a conversation.")
    ] = None,
    attach: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            help="A file that goes with the (first) message; may be given several times.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print events as JSON, one a line.")
    ] = False,
) -> None:
    """Talk to a group's agent: the answer streams to stdout, notes go to stderr.

    Ctrl-C cancels the running turn, a second one leaves.
    """
    context = context_of(ctx)
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read()
    files = tuple(attach or ())
    raise typer.Exit(run(lambda: _chat(context, group, message, files, as_json)))


async def _chat(
    context: Context, group: str, message: str | None, files: Sequence[Path], as_json: bool
) -> int:
    if message is not None and not message.strip() and not files:
        raise PermanentError("the message is empty", hint='say something: -m "hello"')
    async with connect(context) as api:
        if message is not None:
            return await _say(api, group, message, files, as_json)
        note(f"group {group}; an empty line or Ctrl-D leaves, Ctrl-C cancels a running turn")
        while text := await _ask():
            try:
                await _say(api, group, text, files, as_json)
                files = ()
            except NanokimiError as e:
                show_error(e)
        return 0


async def _ask() -> str:
    """A line of the terminal; waiting for it leaves Ctrl-C its meaning."""
    err.print("[bold]you>[/] ", end="")
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline().strip()


async def _say(api: Api, group: str, text: str, files: Sequence[Path], as_json: bool) -> int:
    """Send, show until the end; the exit code."""
    saying = _Saying(api, group, _show_json if as_json else _Terminal().show)
    stop = asyncio.Event()
    with _on_interrupt(stop):
        work = asyncio.create_task(saying.run(text, files), name="stream")
        interrupted = asyncio.create_task(stop.wait(), name="interrupt")
        await asyncio.wait({work, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and await saying.cancel():
            note("\ncancelling; Ctrl-C again leaves at once")
            stop.clear()
            interrupted = asyncio.create_task(stop.wait(), name="second interrupt")
            await asyncio.wait({work, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        interrupted.cancel()
        if not work.done():
            work.cancel()
            return 130
        return await work


class _Saying:
    """One message on its way, and the turn that answers it once there is one."""

    def __init__(self, api: Api, group: str, show: Callable[[ServerEvent], None]) -> None:
        self._api = api
        self._group = group
        self._show = show
        self._turn = ""

    async def run(self, text: str, files: Sequence[Path]) -> int:
        """Send it and show its events; the exit code."""
        body = {"text": text, "sender": "terminal", "operator": True, "direct": True}
        async for event in self._api.send(self._group, body, files):
            self._show(event)
            if (code := await self._ends_with(event)) is not None:
                return code
        raise PermanentError(
            "the stream ended before the turn did", hint="ask again: the host kept the message"
        )

    async def cancel(self) -> bool:
        """Cancel its own turn; False when there is none, and the message stays in the queue."""
        if not self._turn:
            note("\nleaving; the message is kept and will be answered")
            return False
        try:
            await self._api.call(
                "POST", f"{group_path(self._group)}/cancel", params={"turn_id": self._turn}
            )
        except NanokimiError as e:
            if e.code != "nothing_running":
                raise
        return True

    async def _ends_with(self, event: ServerEvent) -> int | None:
        data = event.data
        held = bool(data.get("held"))
        match event.kind:
            case "message.accepted" if held:
                found = await self._api.call("GET", group_path(self._group))
                # Nothing holds it any more when the model has just answered another group.
                return _kept(found["held_for"]) if found["held_for"] else None
            case "turn.started":
                self._turn = str(data["turn_id"])
                return None
            case "turn.finished":
                return 130 if data["status"] == "cancelled" else 0
            case "turn.failed" if held:
                return _kept(str(data["code"]), _why(data), str(data.get("hint", "")))
            case "turn.failed" if not data["will_retry"]:
                show_error(NanokimiError(_why(data), hint=str(data.get("hint", ""))))
                return _EXIT_CODES.get(str(data["code"]), 1)
            case _:
                return None


def _why(data: dict[str, Any]) -> str:
    """For who runs nanokimi: ``message`` of a held turn is for the people of the chat."""
    return str(data.get("reason") or data["message"])


def _kept(code: str, message: str = "", hint: str = "") -> int:
    """Say what a kept message waits for; the exit code."""
    if code == LoginRequiredError.code:
        error = NanokimiError(message or "the login is missing", hint=hint or "nanokimi login")
        until = "after the login"
    elif _EXIT_CODES.get(code) == EngineError.exit_code:
        what = message or f"the agent cannot be started: {code}"
        error = NanokimiError(what, hint=hint or "see `nanokimi doctor`")
        until = "when the agent can be started again"
    else:
        what = f"{code}: {message}" if message else f"the model does not answer: {code}"
        error = NanokimiError(what, hint=hint or "see `nanokimi doctor`")
        until = "when the model answers again"
    show_error(error)
    note(f"the message is kept; it is answered {until}")
    return _EXIT_CODES.get(code, 1)


class _Terminal:
    """The answer to stdout as it comes; what the agent does, to stderr."""

    def __init__(self) -> None:
        self._mid_line = False
        self._said = False

    def show(self, event: ServerEvent) -> None:
        data = event.data
        match event.kind:
            case "text.delta":
                self._said = True
                self._say(str(data["text"]))
            case "text.reset":
                self._said = True
                self._note("the answer was cut and begins again:")
                self._say(str(data["text"]))
            case "file.sent":
                self._note(f"→ {data['name']} ({data['size']} bytes): {data['url']}")
            case "tool.started":
                self._note(f"· {data['title']}")
            case "tool.finished" if data["failed"]:
                self._note(f"  failed: {str(data['output'])[:200]}")
            case "turn.started":
                self._said = False
                if data["attempt"] > 1:
                    self._note(f"attempt {data['attempt']}: the answer begins again")
            case "turn.failed" if data["will_retry"] and not data.get("held"):
                self._note(f"{data['message']}; again in {data['retry_in']:.0f} s")
            case "turn.finished":
                if not self._said:  # a stream that came after the deltas
                    self._say(str(data["text"]))
                if data["status"] == "cancelled":
                    self._note("cancelled")
                elif data.get("stop_reason") not in ("end_turn", None):
                    self._note(f"the agent stopped early: {data['stop_reason']}")
                self._end_line()

    def _say(self, text: str) -> None:
        """What an agent says cannot steer a terminal; into a file or a pipe it goes as it is."""
        sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
        if text:
            self._mid_line = not text.endswith("\n")

    def _note(self, text: str) -> None:
        self._end_line()
        note(text)

    def _end_line(self) -> None:
        if self._mid_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._mid_line = False


def _show_json(event: ServerEvent) -> None:
    line = json.dumps({"event": event.kind, **event.data}, ensure_ascii=False)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def _on_interrupt(event: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, event.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
