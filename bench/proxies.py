"""What stands between a client and a model service: our gateway, and LiteLLM's proxy.

Both as people start them, one worker each, in a process of its own on a core of its own.
LiteLLM is installed into an environment of its own below the cache directory, never into ours.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.finding import Skipped
from bench.http import Failed, connection
from bench.load import Door
from bench.memory import MB, tree
from bench.rig import directory, end, plain_environment

LITELLM = "litellm[proxy]==1.106.2"
INSTALL_DEADLINE = 900.0
START_DEADLINE = 90.0
KEY = "sk-bench-0123456789"
UPSTREAM_KEY = "sk-upstream-0123456789"
MODEL = "kimi-for-coding"
PACES = ("fast", "paced")

OURS = """\
default_model = "fast"

[gateway]
keys = [{{ key = "{key}", name = "bench" }}]
"""
OURS_MODEL = """
[models.{name}]
provider = "{name}"
model = "{model}"
max_context_size = 262144

[providers.{name}]
type = "kimi"
base_url = "{base}"
api_key = "{upstream_key}"
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One that runs. ``doors`` by the pace of the service behind; ``started`` is seconds."""

    name: str
    doors: Mapping[str, Door]
    pid: int
    started: float

    def resident(self) -> float:
        """MB of memory that its processes hold now (VmRSS)."""
        return sum(_resident(pid) for pid in tree(self.pid))

    def computed(self) -> float:
        """Seconds of CPU time that its processes have had."""
        return sum(_computed(pid) for pid in tree(self.pid))


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """This thread, and what it starts inside the block, run on one core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def upstream() -> Iterator[dict[str, Door]]:
    """:mod:`bench.upstream` inside the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.upstream"], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        if not url:
            raise Failed("the upstream ended at once")
        yield {pace: Door(f"{url}/{pace}/v1", UPSTREAM_KEY, MODEL) for pace in PACES}
    finally:
        end(process)


@contextlib.contextmanager
def ours(behind: Mapping[str, Door], core: int) -> Iterator[Proxy]:
    """``nanokimi gateway`` inside the block."""
    with directory() as path:
        entries = [
            OURS_MODEL.format(name=n, model=MODEL, upstream_key=UPSTREAM_KEY, base=d.base)
            for n, d in behind.items()
        ]
        (path / "data" / "credentials").mkdir(parents=True, mode=0o700)
        (path / "data" / "config.toml").write_text(OURS.format(key=KEY) + "".join(entries))
        port = _free_port()
        listen = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "runner", "--data", str(path / "data"), "gateway"]
        command += ["--listen", listen]
        with _running("nanokimi", command, plain_environment(), path, port, core) as proxy:
            yield proxy


@contextlib.contextmanager
def litellm(behind: Mapping[str, Door], core: int) -> Iterator[Proxy]:
    """LiteLLM's proxy inside the block. Raises: Skipped: it is not installed."""
    program = litellm_home() / "bin" / "litellm"
    if not program.exists():
        raise Skipped("LiteLLM is not installed; python -m bench --only gateway installs it")
    with directory() as path:
        entries = [
            {
                "model_name": name,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": door.base,
                    "api_key": UPSTREAM_KEY,
                },
            }
            for name, door in behind.items()
        ]
        config = path / "config.yaml"  # JSON is YAML
        settings = {"master_key": KEY}
        config.write_text(json.dumps({"model_list": entries, "general_settings": settings}))
        port = _free_port()
        command = [str(program), "--config", str(config), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
        quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        env = {**plain_environment(), **quiet}
        with _running("LiteLLM", command, env, path, port, core) as proxy:
            yield proxy


def litellm_home() -> Path:
    """Where LiteLLM's environment is."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "nanokimi" / "litellm"


def install_litellm(say: Callable[[str], None]) -> None:
    """Make LiteLLM's environment unless it is there; ``say`` is told, of a failure too."""
    home = litellm_home()
    if (home / "installed").exists() and (home / "installed").read_text() == LITELLM:
        return
    say(f"installing {LITELLM} into {home}, once; this takes a minute or more")
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    python = home / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        for step in ([sys.executable, "-m", "venv", str(home)], [*install, LITELLM]):
            subprocess.run(step, check=True, capture_output=True, timeout=INSTALL_DEADLINE)
    except subprocess.CalledProcessError as e:
        shutil.rmtree(home, ignore_errors=True)
        say(f"LiteLLM cannot be installed: {e.stderr.decode(errors='replace').strip()[-300:]}")
    except (OSError, subprocess.TimeoutExpired) as e:
        shutil.rmtree(home, ignore_errors=True)
        say(f"LiteLLM cannot be installed: {e}")
    else:
        (home / "installed").write_text(LITELLM)


@contextlib.contextmanager
def _running(
    name: str, command: Sequence[str], env: Mapping[str, str], path: Path, port: int, core: int
) -> Iterator[Proxy]:
    said = path / "said.log"
    began = time.monotonic()
    with said.open("wb") as log, pinned(core):
        process = subprocess.Popen(
            command, env=env, cwd=path, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        base = f"http://127.0.0.1:{port}/v1"
        if not _answers(process, base):
            raise Failed(f"{name} did not start: {said.read_text(errors='replace')[-1000:]}")
        doors = {pace: Door(base, KEY, pace) for pace in PACES}
        yield Proxy(name, doors, process.pid, time.monotonic() - began)
    finally:
        end(process)


def _answers(process: subprocess.Popen[bytes], base: str) -> bool:
    """Wait until it lists its models."""
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        over = connection(base)
        try:
            over.request("GET", "/v1/models", headers={"authorization": f"Bearer {KEY}"})
            if over.getresponse().status == 200:
                return True
        except (OSError, http.client.HTTPException):
            pass  # not yet
        finally:
            over.close()
        time.sleep(0.05)
    return False


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / MB
    raise Failed(f"/proc does not say what process {pid} holds")


def _computed(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
