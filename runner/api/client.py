"""The HTTP API as a client sees it: what the commands use to talk to a running host."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from runner.errors import NanokimiError, PermanentError, TemporaryError


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of a stream; ``id`` is what a listener resumes after."""

    kind: str
    data: dict[str, Any]
    id: int = 0


class Api:
    """The HTTP API as the commands use it. Errors come back as the errors they were."""

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(60.0, read=None),
            trust_env=False,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """One call; gives the JSON of its answer. Raises: NanokimiError."""
        try:
            answer = await self._client.request(method, path, **options)
        except httpx.HTTPError as e:
            raise _unreachable(e) from None
        if answer.is_error:
            raise _error_of(answer.status_code, answer.content)
        return answer.json() if answer.content else None

    async def send(
        self, group: str, body: dict[str, Any], files: Sequence[Path] = ()
    ) -> AsyncGenerator[ServerEvent, None]:
        """Post a message and stream its events until its turn has ended.

        ``files`` go with it, read piece by piece. Raises: NanokimiError, OSError of a file.
        """
        path = f"{group_path(group)}/messages"
        headers = {"accept": "text/event-stream"}
        with contextlib.ExitStack() as opened:
            content: dict[str, Any] = {"json": body}
            if files:
                message = ("message", (None, json.dumps(body)))
                parts = [("file", (f.name, opened.enter_context(f.open("rb")))) for f in files]
                content = {"files": [message, *parts]}
            async for event in self._events(path, headers, content):
                yield event

    async def _events(
        self, path: str, headers: dict[str, str], content: dict[str, Any]
    ) -> AsyncGenerator[ServerEvent, None]:
        try:
            async with self._client.stream("POST", path, headers=headers, **content) as answer:
                if answer.is_error:
                    raise _error_of(answer.status_code, await answer.aread())
                id_, kind = 0, ""
                async for line in answer.aiter_lines():
                    if line.startswith("id: "):
                        id_ = int(line[4:])
                    elif line.startswith("event: "):
                        kind = line[7:]
                    elif line.startswith("data: "):
                        yield ServerEvent(kind, json.loads(line[6:]), id_)
        except httpx.HTTPError as e:
            raise _unreachable(e) from None


def group_path(group: str) -> str:
    """The path of a group's calls, whatever its id holds."""
    encoded = quote(group, safe="")
    if group in (".", ".."):  # as a path segment they would mean something else
        encoded = encoded.replace(".", "%2E")
    return f"/api/groups/{encoded}"


def _unreachable(e: httpx.HTTPError) -> NanokimiError:
    return TemporaryError(
        f"the host does not answer: {type(e).__name__} {e}".strip(),
        hint="is `nanokimi serve` still running?",
        code="host_unreachable",
    )


def _error_of(status: int, body: bytes) -> NanokimiError:
    try:
        told = json.loads(body)["error"]
        message, hint, code = str(told["message"]), str(told["hint"]), str(told["code"])
    except (ValueError, KeyError, TypeError):
        return NanokimiError(f"the host answered HTTP {status}", code="http_error")
    if code == "http_error" and status in (404, 405):  # a group that is not there has its own code
        return other_version()
    return NanokimiError(message, hint=hint, code=code)


def other_version() -> NanokimiError:
    """The host that serves does not know a call, or answers it in another shape."""
    return PermanentError(
        "the host that serves is of another version than this command",
        hint="restart it: end `nanokimi serve` and start it again",
        code="other_version",
    )
