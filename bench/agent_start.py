"""Start of the agent: from exec to its answer to ``initialize``, over a Python that does nothing.

On this machine's own interpreter, without a container, with the command that process sandboxes use.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bench.finding import Budget, Finding, Spread
from bench.http import Failed
from bench.rig import directory
from runner.sandbox.process import NATIVE_AGENT

LIMIT = 150.0
PAIRS, QUICK_PAIRS = 25, 5

CONFIG = """\
default_model = "m"
[models.m]
provider = "p"
model = "kimi-for-coding"
[providers.p]
type = "kimi"
base_url = "http://nanokimi.internal/v1"
oauth = { storage = "file", key = "oauth/kimi-code" }
[nanokimi]
model_socket = "model.sock"
"""
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": 1, "clientCapabilities": {}},
}


def measure(*, quick: bool) -> list[Finding]:
    agent: list[float] = []
    bare: list[float] = []
    with directory() as home:
        _write_home(home)
        for pair in range(1 + (QUICK_PAIRS if quick else PAIRS)):
            python, hello = _bare_python() * 1000, _agent(home) * 1000
            if pair:  # the first one may have to write byte code
                bare.append(python)
                agent.append(hello)
    added = Spread.of([a - b for a, b in zip(agent, bare, strict=True)])
    return [
        Finding(
            "start of the agent: exec → answer to initialize",
            Spread.of(agent),
            "ms",
            against=f"python -c pass: {Spread.of(bare).text('ms')}",
            budgets=(Budget("added ms", added.median, LIMIT),),
        )
    ]


def _write_home(home: Path) -> None:
    kimi = home / ".kimi"
    (kimi / "credentials").mkdir(parents=True)
    (kimi / "sessions").mkdir()
    (kimi / "config.toml").write_text(CONFIG)
    (kimi / "credentials" / "kimi-code.json").write_text(json.dumps({"access_token": "none"}))


def _bare_python() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.monotonic() - began


def _agent(home: Path) -> float:
    """Seconds until the agent has said hello. Raises: Failed."""
    began = time.monotonic()
    with subprocess.Popen(
        NATIVE_AGENT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "NANOKIMI_RUN_DIR": str(home)},
        cwd=home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(HELLO).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        took = time.monotonic() - began
        process.stdin.close()  # its client has left: it ends by itself
    if not line or "result" not in json.loads(line):
        raise Failed(f"the agent did not say hello: {line!r}")
    return took
