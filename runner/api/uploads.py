"""Messages with files: read from a request piece by piece, onto the disk and not into memory.

``multipart/form-data`` streams: a part ``message`` with the JSON, and a part for each file. JSON
carries files as base64, which has to be in memory as a whole, so few of those are read at one time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.types import Scope

from runner.api.bodies import MessageIn
from runner.errors import BusyError, PermanentError
from runner.host.app import Host
from runner.host.attachments import MAX_ATTACHMENTS, Staged, Staging
from runner.host.intake import Incoming
from runner.host.people import check_group_id
from runner.store import Accepted

MAX_BODY = 1024 * 1024
FORM = "multipart/form-data"

_FORMS_AT_ONCE = 4
_LARGE_AT_ONCE = 2
_SLOT_WAIT = 30.0
_UPLOAD_DEADLINE = 600.0
_PIECE = 1 << 20  # of base64: a multiple of 4
_OVERHEAD = 64 * 1024  # boundaries and headers of the parts


def body_limit(scope: Scope, max_file: int) -> int:
    """How many bytes the body of this request may have. ``max_file``: one attachment's bytes.

    JSON has to say its length to be long.
    """
    path: str = scope["path"]
    if scope["method"] != "POST" or not path.startswith("/api/groups/"):
        return MAX_BODY
    if not path.endswith("/messages"):
        return MAX_BODY
    headers = dict(scope["headers"])
    if headers.get(b"content-type", b"").lower().startswith(FORM.encode()):
        return MAX_BODY + MAX_ATTACHMENTS * max_file + _OVERHEAD
    if b"content-length" not in headers:
        return MAX_BODY
    return MAX_BODY + max_file * 4 // 3 + 4 * MAX_ATTACHMENTS


def message_body() -> dict[str, Any]:
    """What the call takes, for the API's documentation."""
    schema = _inlined(MessageIn.model_json_schema())
    form = {
        "type": "object",
        "required": ["message"],
        "properties": {
            "message": schema,
            "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
        },
    }
    kinds = {"application/json": {"schema": schema}, FORM: {"schema": form}}
    return {"requestBody": {"required": True, "content": kinds}}


@dataclass(frozen=True, slots=True)
class Upload:
    """A message as it came in, its files on disk."""

    body: MessageIn
    staged: Staged | None = None

    async def accept(self, host: Host, incoming: Incoming) -> Accepted:
        """Hand it over; its files go when the message is refused or known already.

        Raises:
            NanokimiError: as :meth:`~runner.host.app.Host.accept`.
        """
        staged = self.staged
        if staged is None:
            return await host.intake.accept(incoming)
        try:
            accepted = await host.intake.accept(replace(incoming, staged=staged))
        except (PermanentError, BusyError):
            await self._discard(host, incoming.group, staged)
            raise  # after any other error nobody knows whether it was written: the sweep sees
        if accepted.duplicate:
            await self._discard(host, incoming.group, staged)
        return accepted

    async def _discard(self, host: Host, group: str, staged: Staged) -> None:
        await asyncio.to_thread(host.attachments.discard, group, staged.message_id)


class Uploads:
    """Reads the messages of one API; bounds how many large ones are read at one time."""

    def __init__(self) -> None:
        self._forms = asyncio.Semaphore(_FORMS_AT_ONCE)
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    async def read(self, request: Request, host: Host, group: str) -> Upload:
        """Take the request's body.

        Raises:
            RequestValidationError: it is not what the call takes.
            PermanentError: too many or too large files; BusyError: too much at one time.
            OwnedElsewhereError: files for a group of a host that would not see them.
        """
        kind = request.headers.get("content-type", "application/json")
        try:
            async with asyncio.timeout(_UPLOAD_DEADLINE):
                if kind.lower().startswith(FORM):
                    check_group_id(group)
                    await host.check_attachments(group)
                    async with _slot(self._forms):
                        return await _Form(kind).read(request, host, group)
                return await self._read_json(request, host, group, kind)
        except TimeoutError:
            raise PermanentError(
                f"the upload took longer than {_UPLOAD_DEADLINE:g} s",
                hint="send it again, in smaller parts",
                code="upload_timeout",
            ) from None

    async def _read_json(self, request: Request, host: Host, group: str, kind: str) -> Upload:
        raw = bytearray()
        async with contextlib.AsyncExitStack() as stack:
            large = False
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > MAX_BODY and not large:
                    large = True
                    await stack.enter_async_context(_slot(self._large))
            if "json" not in kind:
                raise _invalid("not_json")
            body = _parsed(raw)
            files = body.attachments
            if not files:
                if large:
                    raise HTTPException(413)
                return Upload(body)
            del raw
            check_group_id(group)
            await host.check_attachments(group)
            limit = host.settings.tools.send_file.max_size
            async with host.attachments.staging(group, limit) as staging:
                for file in files:
                    await staging.begin(file.name, file.media_type)
                    for at in range(0, len(file.data), _PIECE):
                        await staging.write(_decoded(file.data[at : at + _PIECE], file.name))
                    await staging.end()
                staged = await staging.staged()
            return Upload(body.model_copy(update={"attachments": []}), staged)


class _Form:
    """One form: what its parts hold, as they come in."""

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise _invalid("form", "the form has no boundary")
        self._events: list[tuple[str, bytes]] = []
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": self._on("field"),
                    "on_header_value": self._on("value"),
                    "on_header_end": lambda: self._events.append(("header", b"")),
                    "on_headers_finished": lambda: self._events.append(("begin", b"")),
                    "on_part_data": self._on("data"),
                    "on_part_end": lambda: self._events.append(("end", b"")),
                    "on_end": lambda: self._events.append(("over", b"")),
                },
            )
        except FormParserError as e:
            raise _invalid("form", f"the form cannot be read: {e}") from None
        self._headers: dict[str, bytes] = {}
        self._field, self._value = b"", b""
        self._message = bytearray()
        self._body: MessageIn | None = None
        self._in_file = False
        self._over = False

    async def read(self, request: Request, host: Host, group: str) -> Upload:
        limit = host.settings.tools.send_file.max_size
        async with host.attachments.staging(group, limit) as staging:
            async for chunk in request.stream():
                try:
                    self._parser.write(chunk)
                except FormParserError as e:
                    raise _invalid("form", f"the form is broken: {e}") from None
                for kind, data in self._events:
                    await self._hear(staging, kind, data)
                self._events.clear()
            if not self._over:
                raise _invalid("form", "the form has no end")
            if self._body is None:
                raise _invalid("form", 'the form has no part "message"')
            return Upload(self._body, await staging.staged())

    def _on(self, kind: str) -> Any:
        def heard(data: bytes, start: int, end: int) -> None:
            self._events.append((kind, data[start:end]))

        return heard

    async def _hear(self, staging: Staging, kind: str, data: bytes) -> None:
        match kind:
            case "field":
                self._field += data
            case "value":
                self._value += data
            case "header":
                self._headers[self._field.decode("latin-1").lower()] = self._value
                self._field, self._value = b"", b""
            case "begin":
                await self._begin(staging)
            case "data" if self._in_file:
                await staging.write(data)
            case "data":
                self._message += data
                if len(self._message) > MAX_BODY:
                    raise HTTPException(413)
            case "end" if self._in_file:
                await staging.end()
            case "end":
                self._body = _parsed(self._message)
                if self._body.attachments:
                    raise _invalid("form", "attachments of a form are parts of their own")
            case "over":
                self._over = True

    async def _begin(self, staging: Staging) -> None:
        _, options = parse_options_header(self._headers.pop("content-disposition", b""))
        type_ = self._headers.pop("content-type", b"").decode("latin-1").partition(";")[0].strip()
        self._headers.clear()
        filename = options.get(b"filename")
        self._in_file = filename is not None
        if filename is not None:
            await staging.begin(filename.decode("utf-8", "replace"), type_)
        elif options.get(b"name") != b"message" or self._body is not None:
            name = options.get(b"name", b"").decode("utf-8", "replace")[:80]
            raise _invalid("form", f'a part "{name}" without a file name that is not "message"')


def _parsed(raw: bytes | bytearray) -> MessageIn:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise _invalid("json_invalid") from None
    try:
        return MessageIn.model_validate(found)
    except ValidationError as e:
        raise RequestValidationError(
            [{**told, "loc": ("body", *told["loc"])} for told in e.errors(include_url=False)]
        ) from None


def _decoded(piece: str, name: str) -> bytes:
    try:
        return base64.b64decode(piece, validate=True)
    except (binascii.Error, ValueError):
        raise PermanentError(
            f'the data of the attachment "{name[:100]}" is not base64',
            hint="send standard base64 without line breaks, or a form",
            code="bad_attachment",
        ) from None


@contextlib.asynccontextmanager
async def _slot(slots: asyncio.Semaphore) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_SLOT_WAIT):
            await slots.acquire()
    except TimeoutError:
        raise BusyError(
            "too many uploads at one time",
            hint="send files one after the other",
            code="uploads_busy",
            retry_after=5.0,
        ) from None
    try:
        yield
    finally:
        slots.release()


def _invalid(kind: str, text: str = "") -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("body",), "msg": text}])


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its definitions in their places: OpenAPI keeps those elsewhere."""
    defs = schema.pop("$defs", {})

    def put(node: Any) -> Any:
        if isinstance(node, list):
            return [put(n) for n in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return put(defs[node["$ref"].rsplit("/", 1)[-1]])
        return {k: put(v) for k, v in node.items()}

    found: dict[str, Any] = put(schema)
    return found
