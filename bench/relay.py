"""The relay: what a sandbox's way to its model adds to calling the provider directly.

The caller stands where an agent does: at the Unix socket of a group, with the token of its sandbox.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from bench.finding import Finding, Spread
from bench.http import Failed, UnixConnection, connection
from bench.rig import Host, host, provider
from runner import __version__
from runner.model import folder_of
from runner.sandbox.spawner import HOST_SOCKET

GROUP = "relay"
PAIRS, QUICK_PAIRS = 300, 50
ASK = {
    "model": "kimi-for-coding",
    "messages": [{"role": "user", "content": "!chunks 32\n!bytes 4096"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}


def measure(*, quick: bool) -> list[Finding]:
    firsts: list[tuple[float, float]] = []
    wholes: list[tuple[float, float]] = []
    with provider() as model, host(model, "process") as serving:
        serving.api.turn(GROUP, "hello")  # opens the group's socket
        socket = serving.layout.socket_dir(folder_of(GROUP)) / HOST_SOCKET
        direct, relayed = connection(model.base_url), UnixConnection(socket)
        login, scoped = model.login()["access_token"], _scoped_token(serving)
        for pair in range(1 + (QUICK_PAIRS if quick else PAIRS)):
            bare = _ask(direct, "/coding/v1/chat/completions", login)
            through = _ask(relayed, "/v1/chat/completions", scoped)
            if pair:
                firsts.append((bare[0], through[0]))
                wholes.append((bare[1], through[1]))
        direct.close()
        relayed.close()
    return [
        _finding("relay, one caller: added until the first byte", firsts),
        _finding("relay, one caller: added until the last byte", wholes),
    ]


def _finding(measure: str, pairs: list[tuple[float, float]]) -> Finding:
    direct = Spread.of([bare for bare, _ in pairs])
    return Finding(
        measure,
        Spread.of([through - bare for bare, through in pairs]),
        "ms",
        against=f"direct: {direct.text('ms')}",
    )


def _ask(over: http.client.HTTPConnection, path: str, token: str) -> tuple[float, float]:
    """Milliseconds until the first and the last byte of a streamed answer. Raises: Failed."""
    headers = {
        "authorization": f"Bearer {token}",
        "content-type": "application/json",
        "user-agent": f"nanokimi/{__version__}",
    }
    body = json.dumps(ASK).encode()
    began = time.monotonic()
    over.request("POST", path, body, headers)
    answer = over.getresponse()
    first = answer.read(1)
    at_first = time.monotonic()
    rest = answer.read()
    at_last = time.monotonic()
    if answer.status != 200 or b"[DONE]" not in rest:
        raise Failed(f"POST {path}: HTTP {answer.status} {(first + rest)[:500]!r}")
    return (at_first - began) * 1000, (at_last - began) * 1000


def _scoped_token(serving: Host) -> str:
    projected = serving.layout.credentials_projection(folder_of(GROUP)) / "kimi-code.json"
    credential: dict[str, Any] = json.loads(projected.read_text())
    return str(credential["access_token"])
