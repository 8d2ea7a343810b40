"""No secret is where it does not belong: every place is searched for every secret in play."""

import contextlib
import json
import re
import secrets
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from rig import log_in, write_config
from served import LISTEN, Served

from runner.api.client import group_path
from runner.demo.provider import DemoProvider
from runner.demo.records import Record
from runner.model import folder_of
from runner.settings.layout import Layout

KEY = "sk-" + secrets.token_hex(24)
GROUPS = ("isolated", "open", "key")
MORE = """
[groups.open]
network = "open"

[groups.key]
model = "k2"

[models.k2]
provider = "platform"
model = "kimi-k2.6"
max_context_size = 262144

[providers.platform]
type = "kimi"
base_url = "{platform}"
api_key = "file:{key_file}"
"""
# Runs as a tool: writes what a stranger could find into files, past every redaction. The last
# part asks the model's socket with a wrong token and keeps the answer.
LOOK = """
mkdir -p seen
env > seen/env
for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ; done > seen/environs 2>/dev/null
for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done > seen/argv 2>/dev/null
cat ~/.kimi/config.toml ~/.kimi/config/* > seen/config 2>/dev/null
cat ~/.kimi/credentials/* > seen/credentials 2>/dev/null
cat seen/*
"""
ASK_WRONGLY = """
import os, socket
s = socket.socket(socket.AF_UNIX)
s.settimeout(5)
try:
    s.connect(os.environ.get("NANOKIMI_RUN_DIR", "/run/nanokimi") + "/host.sock")
except OSError:
    raise SystemExit  # an open sandbox has none
s.sendall(b"POST /v1/chat/completions HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n"
          b"authorization: Bearer wrong-token\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
with open("seen/refusal", "wb") as f:
    while data := s.recv(65536):
        f.write(data)
"""


@dataclass
class InPlay:
    """Every secret that has been used so far, by kind."""

    api: str
    access: set[str] = field(default_factory=set)
    refresh: set[str] = field(default_factory=set)
    scoped: set[str] = field(default_factory=set)

    def of(self, *kinds: str) -> dict[str, str]:
        found = {}
        for kind in kinds:
            value = {"key": {KEY}, "api": {self.api}}.get(kind) or getattr(self, kind)
            assert value, f"there is no {kind} secret: the test looks for nothing"
            found |= dict.fromkeys(value, kind)
        return found

    @property
    def all(self) -> dict[str, str]:
        return self.of("key", "api", "access", "refresh", "scoped")

    def gather(self, layout: Layout, requests: list[Record]) -> None:
        login = json.loads((layout.credentials / "kimi-code.json").read_text())
        self.access.add(login["access_token"])
        self.refresh.add(login["refresh_token"])
        for request in requests:
            if request.path == "/api/oauth/token":
                self.refresh.update(parse_qs(request.body.decode()).get("refresh_token", []))
            sent = request.headers.get("authorization", "").removeprefix("Bearer ")
            if sent and sent != KEY:
                self.access.add(sent)


def leaks(content: bytes | str, forbidden: dict[str, str]) -> list[str]:
    """Kinds of the secrets in it."""
    data = content.encode() if isinstance(content, str) else content
    return sorted({kind for secret, kind in forbidden.items() if secret.encode() in data})


@pytest.fixture
def config(backend: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    if backend == "docker":
        return {"backend": backend, "image": request.getfixturevalue("agent_image")}
    return {"backend": backend}


@pytest.fixture
def address(backend: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Where sandboxes of this backend reach a provider on this machine."""
    if backend != "docker":
        yield "127.0.0.1"
        return
    request.getfixturevalue("docker_engine")
    name = f"nanokimi-test-{secrets.token_hex(4)}"
    subprocess.check_output(["docker", "network", "create", name])
    try:
        shown = subprocess.check_output(["docker", "network", "inspect", name])
        yield json.loads(shown)[0]["IPAM"]["Config"][0]["Gateway"]
    finally:
        subprocess.check_output(["docker", "network", "rm", name])


@contextlib.asynccontextmanager
async def serving(
    tmp_path: Path, provider: DemoProvider, config: dict[str, Any]
) -> AsyncIterator[Served]:
    layout = Layout(tmp_path / "data")
    layout.root.mkdir()
    key_file = layout.root / "platform.key"
    key_file.write_text(KEY)
    provider.add_api_key(KEY)
    more = MORE.format(platform=provider.open_platform_url, key_file=key_file)
    write_config(layout, provider, **config, more=f"{more}\n{LISTEN}")
    log_in(layout, provider)
    served = Served(layout, log_level="debug")
    await served.start()
    try:
        yield served
    finally:
        await served.stop()


def tool(command: str) -> str:
    return f"!call bash {json.dumps({'command': command})}\n!say done: {{last}}"


def secrets_of_sandbox(layout: Layout, group: str) -> str:
    """The token that is mounted into a group's sandbox."""
    (path,) = layout.credentials_projection(folder_of(group)).glob("*.json")
    return str(json.loads(path.read_text())["access_token"])


@pytest.mark.parametrize("backend", ["process", pytest.param("docker", marks=pytest.mark.docker)])
async def test_no_secret_is_where_it_does_not_belong(
    tmp_path: Path, backend: str, config: dict[str, Any], address: str
) -> None:
    async with (
        DemoProvider(host=address) as provider,
        serving(tmp_path, provider, config) as served,
    ):
        layout = served.layout
        known = InPlay(served.token)
        known.gather(layout, provider.requests)
        streamed = ""
        async with contextlib.aclosing(served.api()) as api:
            for round_ in range(2):
                for group in GROUPS:
                    for command in (LOOK, f"python3 -c '{ASK_WRONGLY}'; cat seen/refusal"):
                        sent = {"text": tool(command), "direct": True}
                        events = [e async for e in api.send(group, sent)]
                        assert events[-1].kind == "turn.finished", events[-1]
                        streamed += json.dumps([e.data for e in events])
                    if group != "open":
                        known.scoped.add(secrets_of_sandbox(layout, group))
                known.gather(layout, provider.requests)
                if not round_:
                    provider.revoke_access()  # the second round needs a renewed login
            refused = await _refusals(served)
            history = json.dumps(
                [await api.call("GET", f"{group_path(group)}/messages") for group in GROUPS]
            )
        assert provider.refreshes >= 1
        assert len(known.access) >= 2

        for place, content in {
            "events": streamed,
            "answers to wrong tokens": refused,
            "history": history,
            "the host's environment": Path(f"/proc/{served.pid}/environ").read_bytes(),
            "the host's arguments": Path(f"/proc/{served.pid}/cmdline").read_bytes(),
        }.items():
            assert not leaks(content, known.all), place
        assert "[redacted]" in streamed

        if backend == "docker":
            _search_the_engine(config["image"], known)
        for group in GROUPS:
            _search_what_the_agent_saw(layout, group, known)
            _search_projections(layout, group, known)
        await served.stop()
        assert not leaks(served.log_path.read_bytes(), known.all), "the host's log"
        for path in (*layout.root.glob("nanokimi.db*"), *(layout.root / "logs").rglob("*")):
            assert not leaks(path.read_bytes(), known.all), path.name


async def _refusals(served: Served) -> str:
    """What the API says to wrong and missing tokens, and to nonsense with the right one."""
    told = ""
    async with httpx.AsyncClient(base_url=served.url) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}):
            told += (await client.get("/api/groups", headers=headers)).text
        right = {"authorization": f"Bearer {served.token}"}
        for path in ("/api/groups/none", "/api/nonsense", f"/api/groups/{'x' * 300}"):
            told += (await client.get(path, headers=right)).text
        told += (await client.post("/api/groups/x/messages", headers=right, content="{")).text
        for path in ("/ready", "/metrics", "/openapi.json"):
            told += (await client.get(path)).text
    return told


def _search_the_engine(image: str, known: InPlay) -> None:
    found = subprocess.check_output(["docker", "ps", "-q", "--no-trunc"]).decode().split()
    folders = {folder_of(group) for group in GROUPS}
    shown = [
        text
        for id_ in found
        if (text := _inspect(id_)) and any(folder in text for folder in folders)
    ]
    assert len(shown) >= len(GROUPS)
    assert not leaks("".join(shown), known.all), "docker inspect"
    history = subprocess.check_output(["docker", "history", "--no-trunc", image])
    assert not leaks(history, known.all), "the image's history"
    saving = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
    assert saving.stdout is not None
    with tarfile.open(fileobj=saving.stdout, mode="r|") as layers:
        for layer in layers:
            if content := layers.extractfile(layer):
                assert not leaks(content.read(), known.all), f"the image: {layer.name}"
    assert saving.wait(60) == 0


def _inspect(id_: str) -> str:
    done = subprocess.run(["docker", "inspect", id_], capture_output=True, text=True, check=False)
    return done.stdout


def _search_what_the_agent_saw(layout: Layout, group: str, known: InPlay) -> None:
    """Files that a tool has written, so nothing was redacted."""
    seen = layout.workspace(folder_of(group)) / "seen"
    for name in ("env", "environs", "argv", "config"):
        content = (seen / name).read_bytes()
        assert content, f"{group}: {name} was not looked at"
        assert not leaks(content, known.all), f"{group}: {name}"
    mounted = (seen / "credentials").read_bytes()
    if group == "open":
        assert leaks(mounted, known.all) == ["access"]
    else:
        assert leaks(mounted, known.all) == ["scoped"]
        refusal = (seen / "refusal").read_text()
        assert "401" in refusal
        assert re.search("needs its own token", refusal)
        assert not leaks(refusal, known.all)
    never = known.of("key", "api", "refresh")
    if group != "open":
        never |= known.of("access")
    for path in (p for p in layout.sessions(folder_of(group)).rglob("*") if p.is_file()):
        assert not leaks(path.read_bytes(), never), f"{group}: the agent's journal"


def _search_projections(layout: Layout, group: str, known: InPlay) -> None:
    never = known.of("key", "api", "refresh")
    if group != "open":
        never |= known.of("access")
    found = [p for p in layout.group_run(folder_of(group)).rglob("*") if p.is_file()]
    assert found
    for path in found:
        assert not leaks(path.read_bytes(), never), f"{group}: {path.name}"
