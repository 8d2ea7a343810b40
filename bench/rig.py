"""The parts under measure: demo provider and host, each as people start it, in its own process.

In one process they would share the interpreter's lock, and each would wait for the others.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.finding import Skipped
from bench.http import ApiClient, Failed, call, connection
from runner.errors import NanokimiError
from runner.host.lock import serving
from runner.sandbox.build import build_image
from runner.settings.layout import Layout

IMAGE = "nanokimi-agent-bench"
START_DEADLINE = 60.0
END_DEADLINE = 60.0
LOGIN_LIFETIME = 86_400.0

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
trigger = "{trigger}"
max_queue = 100000

[server]
listen = "127.0.0.1:0"

[sandbox]
backend = "{backend}"
image = "{image}"
"""


class Provider:
    """The demo provider, and what it wrote down of each request."""

    def __init__(self, base_url: str, oauth_host: str) -> None:
        self.base_url = base_url
        self.oauth_host = oauth_host
        self._control = connection(oauth_host)

    def login(self) -> dict[str, Any]:
        """A fresh login, as the token file holds it."""
        return dict(self._call("POST", "/_demo/login", {"lifetime": LOGIN_LIFETIME}))

    def take(self) -> list[dict[str, Any]]:
        """The chat requests since the last call, oldest first."""
        records = self._call("GET", "/_demo/requests")["requests"]
        self._call("DELETE", "/_demo/requests")
        return [r for r in records if r["path"].endswith("/chat/completions")]

    def answers_in(self) -> float:
        """Seconds that a request which does nothing takes now."""
        began = time.monotonic()
        self._call("GET", "/_demo/state")
        return time.monotonic() - began

    def close(self) -> None:
        self._control.close()

    def _call(self, method: str, path: str, body: object = None) -> Any:
        return call(self._control, method, path, body=body)


@dataclass(frozen=True, slots=True)
class Host:
    """``nanokimi serve`` with a data directory of its own."""

    layout: Layout
    url: str
    api: ApiClient

    def client(self) -> ApiClient:
        """Another connection, for another thread; the caller closes it."""
        return ApiClient(self.url, self.layout.api_token.read_text().strip())


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A directory of our own, gone at the end. ``TMPDIR`` chooses the disk."""
    path = Path(tempfile.mkdtemp(prefix="nanokimi-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def provider() -> Iterator[Provider]:
    """A demo provider inside the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runner.demo.provider"],
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us; we end it when its block does
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Failed("the demo provider ended at once")
        made = Provider(**json.loads(line))
        try:
            yield made
        finally:
            made.close()
    finally:
        end(process)


@contextlib.contextmanager
def host(model: Provider, backend: str, *, trigger: str = "") -> Iterator[Host]:
    """A host inside the block, logged in at ``model``; its sandboxes end with it."""
    with directory() as path:
        layout = Layout(path / "data")
        layout.credentials.mkdir(parents=True, mode=0o700)
        layout.config.write_text(
            CONFIG.format(
                base_url=model.base_url,
                oauth_host=model.oauth_host,
                trigger=trigger,
                backend=backend,
                image=IMAGE,
            )
        )
        token = layout.credentials / "kimi-code.json"
        token.touch(mode=0o600)
        token.write_text(json.dumps(model.login()))
        said = path / "host.log"
        with said.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "runner", "--data", str(layout.root), "serve"],
                env=plain_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a second signal would make it leave its sandboxes behind
            )
        try:
            url = _url_of(process, layout, said)
            api = ApiClient(url, layout.api_token.read_text().strip())
            try:
                yield Host(layout, url, api)
            finally:
                api.close()
        finally:
            end(process)


def docker(*arguments: str) -> str:
    """Run the Docker command line; its stdout. Raises: Failed."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=START_DEADLINE, check=False
    )
    if done.returncode != 0:
        raise Failed(f"docker {arguments[0]}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


@functools.cache
def engine() -> str:
    """The engine's version, once its image of this source tree is there.

    Raises:
        Skipped: no engine answers, or it has no image and cannot make one.
    """
    if shutil.which("docker") is None:
        raise Skipped("the docker command is not installed")
    try:
        version = docker("version", "--format", "{{.Server.Version}}")
    except (Failed, subprocess.TimeoutExpired) as e:
        raise Skipped(f"no Docker engine answers ({e})") from None
    try:
        build_image(tag=IMAGE)
    except NanokimiError as e:
        raise Skipped(f"the agent's image cannot be built: {e.message} ({e.hint})") from None
    return version


def plain_environment() -> dict[str, str]:
    """Ours without the overrides of a nanokimi that somebody set up here."""
    return {k: v for k, v in os.environ.items() if not k.startswith("NANOKIMI_")}


def _url_of(process: subprocess.Popen[bytes], layout: Layout, said: Path) -> str:
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        told = serving(layout.host_lock)
        if told is not None and told.url:
            return told.url
        time.sleep(0.02)
    raise Failed(f"the host did not start: {said.read_text(errors='replace')[-1000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process that we started to end, and see to it that it does."""
    process.terminate()
    try:
        process.wait(END_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
