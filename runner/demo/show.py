"""The walk through the product that ``make demo`` shows: real parts, only the provider is ours.

Every step checks what it claims; the first one that does not hold ends the demo with exit code 1.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from runner.api.client import Api, group_path
from runner.api.server import serving_host
from runner.api.token import api_token
from runner.demo.provider import DemoProvider
from runner.errors import NanokimiError, PermanentError
from runner.model import folder_of
from runner.oauth import device
from runner.oauth.headers import client_headers
from runner.oauth.store import TokenStore
from runner.sandbox.backend import open_spawner
from runner.sandbox.build import build_image
from runner.sandbox.spawner import EngineReport
from runner.settings.layout import Layout
from runner.settings.load import load_settings
from runner.settings.schema import Settings
from runner.store import Store

IMAGE = "nanokimi-agent"
BIRDS, PLANTS = "bird watchers", "plant lovers"

CONFIG = """\
default_model = "kimi-code"
default_thinking = true

[models.kimi-code]
provider = "demo"
model = "kimi-for-coding"
max_context_size = 262144
capabilities = ["thinking"]

[providers.demo]
type = "kimi"
base_url = "{base_url}"
oauth = {{storage = "file", key = "oauth/kimi-code", host = "{oauth_host}"}}

[host]
trigger = ""
idle_timeout = "5m"

[sandbox]
backend = "{backend}"
image = "{image}"
"""


class DidNotHold(Exception):
    """A step of the demo found something else than it promises."""


@dataclass
class _Turn:
    """What a message brought: the streamed text, in how many pieces, the tools used, and what was
    ``sent`` before the answer.
    """

    text: str = ""
    pieces: int = 0
    tools: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)


class _Show:
    """Prints steps as they go and keeps their times for the summary."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.done: list[tuple[str, float]] = []

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.console.print(f"\n[bold]{len(self.done) + 1}. {title}[/]")
        began = time.monotonic()
        yield
        self.done.append((title, time.monotonic() - began))
        self.console.print("   [green]✓[/]")

    def say(self, text: str) -> None:
        self.console.print(f"   {text}", markup=False)


async def show(backend: str, *, keep: bool = False) -> int:
    """Run the demo; the exit code. ``backend`` is ``auto``, ``docker`` or ``process``."""
    console = Console(highlight=False, soft_wrap=True)
    root = Path(tempfile.mkdtemp(prefix="nanokimi-demo-"))
    try:
        await _show(_Show(console), Layout(root / "data"), backend)
    except DidNotHold as e:
        console.print(f"\n[bold red]✗ did not hold:[/] {e}")
        return 1
    except NanokimiError as e:
        console.print(f"\n[bold red]error:[/] {e.message}")
        if e.hint:
            console.print(f"[bold]hint:[/] {e.hint}")
        return e.exit_code
    finally:
        if keep:
            console.print(f"data directory: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return 0


async def _show(show: _Show, layout: Layout, backend: str) -> None:
    with show.step("A sandbox for every group"):
        report = await _choose(show, layout, backend)
    isolated = report.version != "plain"
    async with DemoProvider(auto_approve=False, poll_interval=0.2) as provider:
        layout.root.mkdir(parents=True, exist_ok=True)
        layout.config.write_text(
            CONFIG.format(
                base_url=provider.base_url,
                oauth_host=provider.oauth_host,
                backend=report.backend,
                image=IMAGE,
            )
        )
        settings = load_settings(layout, {})
        with show.step("Device login, as with a Kimi Code account"):
            await _login(show, layout, settings, provider)
        async with _host(layout, settings) as api:
            await _talk(show, layout, api, provider, isolated)
        with show.step("A clean end"):
            left = await _leftovers(layout, report.backend)
            _hold(left == 0, f"{left} sandboxes are left after the host ended")
            show.say("no sandbox is left")
    summary = Table(box=None, pad_edge=False, show_header=False)
    for title, seconds in show.done:
        summary.add_row("[green]✓[/]", title, f"{seconds:.1f} s")
    show.console.print("\n[bold]Every step held.[/]")
    show.console.print(summary)
    show.console.print(f"Sandbox: [bold]{report.backend} {report.version}[/], {report.isolation}")


async def _talk(
    show: _Show, layout: Layout, api: Api, provider: DemoProvider, isolated: bool
) -> None:
    with show.step(f"A turn in “{BIRDS}”: tools in its own workspace, the answer streamed"):
        await _say(show, api, BIRDS, "remember the word heron")
        turn = await _say(
            show, api, BIRDS, "write 'the heron nests at mill pond' to notes.txt and read it back"
        )
        _hold(turn.tools == ["write", "read"], f"tools used: {turn.tools}")
        _hold("heron nests" in turn.text, f"the answer was {turn.text!r}")
        _hold(turn.pieces > 1, "the answer came in one piece")
        notes = layout.workspace(folder_of(BIRDS)) / "notes.txt"
        _hold(notes.read_text() == "the heron nests at mill pond", f"{notes} holds something else")
    with show.step(f"A turn in “{PLANTS}”, side by side"):
        turn = await _say(show, api, PLANTS, "write 'water the fern' to notes.txt and read it back")
        _hold("water the fern" in turn.text, f"the answer was {turn.text!r}")
    with show.step("A tool of the host: a word before the answer"):
        call = json.dumps({"text": "I am half way there"})
        turn = await _say(show, api, PLANTS, f"!call send_message {call}\n!say Now I am done.")
        _hold(turn.sent == ["I am half way there"], f"sent before the answer: {turn.sent}")
    if isolated:
        with show.step("One group cannot see another one's files"):
            await _search(show, api)
    else:
        with show.step("One group's file tools cannot leave its workspace"):
            await _reach_out(show, layout, api)
    with show.step("The sandbox is replaced, the memory stays"):
        before = len(provider.requests)
        stopped = await api.call("POST", f"{group_path(BIRDS)}/stop")
        _hold(stopped["stopped"], "there was no sandbox to stop")
        show.say("stopped; the next message gets a new one")
        turn = await _say(show, api, BIRDS, "which word did I tell you?")
        _hold("heron" in turn.text, f"the answer was {turn.text!r}")
        asked = provider.requests[before:]
        _hold(
            any(b"remember the word heron" in r.body for r in asked),
            "the earlier words were not in the model's request",
        )


async def _search(show: _Show, api: Api) -> None:
    script = "grep -rl 'heron nests' / --include=notes.txt 2>/dev/null; echo searched; ls -A ."
    call = json.dumps({"command": script, "timeout": 60})
    turn = await _say(show, api, PLANTS, f"!call bash {call}\n!say I looked everywhere.")
    found = "\n".join(turn.outputs)
    _hold("searched" in found, f"the search did not run: {found!r}")
    _hold("/" not in found, f"{PLANTS} sees {found!r}")
    show.say("the search over its whole file system finds nothing of the other group")


async def _reach_out(show: _Show, layout: Layout, api: Api) -> None:
    notes = layout.workspace(folder_of(BIRDS)) / "notes.txt"
    call = json.dumps({"path": str(notes)})
    turn = await _say(show, api, PLANTS, f"!call read {call}\n!say I was not let in.")
    found = "\n".join(turn.outputs)
    _hold(turn.tools == ["read"], f"tools used: {turn.tools}")
    _hold("heron nests" not in found, f"{PLANTS} reads {found!r}")
    show.say("refused; its shell is not held here: that takes Docker or bubblewrap")


async def _say(show: _Show, api: Api, group: str, text: str) -> _Turn:
    turn = _Turn()
    show.console.print(f"   [cyan]{group}>[/] {text.splitlines()[0][:100]}")
    show.console.print("   [magenta]agent>[/] ", end="")
    async for event in api.send(group, {"text": text, "sender": "Ada"}):
        data: dict[str, Any] = event.data
        match event.kind:
            case "text.delta":
                turn.text += data["text"]
                turn.pieces += 1
                show.console.out(data["text"], end="", highlight=False)
            case "tool.started":
                turn.tools.append(str(data["title"]).split()[0].rstrip(":"))
                show.console.out(f"[{data['title']}] ", end="", highlight=False)
            case "tool.finished":
                turn.outputs.append(str(data["output"]))
            case "message.sent":
                turn.sent.append(str(data["text"]))
            case "turn.finished":
                show.console.print()
                _hold(data["status"] == "done", f"the turn ended as {data['status']}")
                _hold(data["text"] == turn.text, "the streamed text is not the answer")
                return turn
            case "turn.failed" if data.get("held") or not data["will_retry"]:
                show.console.print()
                raise PermanentError(
                    str(data.get("reason") or data["message"]),
                    hint=str(data["hint"]),
                    code=str(data["code"]),
                )
    raise DidNotHold("the stream ended before the turn did")


async def _login(show: _Show, layout: Layout, settings: Settings, provider: DemoProvider) -> None:
    oauth = settings.providers["demo"].oauth
    assert oauth is not None

    def on_prompt(prompt: device.DevicePrompt) -> None:
        show.say(f"open {prompt.verification_uri} and enter {prompt.user_code}")
        provider.approve(prompt.user_code)
        show.say("(the demo approves it, as you would in a browser)")

    async with httpx.AsyncClient() as client:
        tokens = await device.login(
            oauth.host,
            on_prompt=on_prompt,
            client=client,
            headers=client_headers(layout.credentials),
        )
    store = TokenStore(layout.credentials, oauth.key)
    await store.replace(tokens)
    _hold(store.path.stat().st_mode & 0o777 == 0o600, "the token file is readable by others")
    show.say("the token is in data/credentials/, mode 0600; sandboxes never see it")


async def _choose(show: _Show, layout: Layout, backend: str) -> EngineReport:
    """Docker when an engine answers and the image can be had, else processes; says which.

    An image of an older version is built anew: its agent would know less than this host.
    """
    probe = await open_spawner(_backend(backend), layout, "nanokimi-demo-probe", image=IMAGE)
    try:
        try:
            in_containers = (await probe.check()).backend == "docker"
        except NanokimiError as e:
            if e.code != "image_missing":
                raise
            in_containers = True
        try:
            if in_containers:
                with show.console.status("building the agent image") as status:
                    await asyncio.to_thread(build_image, tag=IMAGE, progress=status.update)
            report = await probe.check()
        except NanokimiError as failed:
            if backend == "docker":
                raise
            show.say(f"no agent image: {failed.message} ({failed.hint})")
            return await _choose(show, layout, "process")
    finally:
        await probe.close()
    if report.warning:
        show.say(report.warning)
    show.say(f"{report.backend} {report.version}: {report.isolation}")
    return report


def _backend(name: str) -> Any:
    if name not in ("auto", "docker", "process"):
        raise PermanentError(
            f"there is no backend {name!r}", hint="use auto, docker or process", code="usage"
        )
    return name


async def _leftovers(layout: Layout, backend: str) -> int:
    store = await Store.open(layout.database)
    try:
        install = await store.install_id()
    finally:
        await store.close()
    spawner = await open_spawner(_backend(backend), layout, install, image=IMAGE)
    try:
        return len(await spawner.list())
    finally:
        await spawner.close()


@asynccontextmanager
async def _host(layout: Layout, settings: Settings) -> AsyncIterator[Api]:
    async with serving_host(layout, settings, "127.0.0.1", 0) as served:
        api = Api(served.url, api_token(layout))
        try:
            yield api
        finally:
            await api.aclose()


def _hold(claim: bool, otherwise: str) -> None:
    if not claim:
        raise DidNotHold(otherwise)
