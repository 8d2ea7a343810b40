"""``send_file``: a file of the workspace goes to the chat."""

from __future__ import annotations

import time
from typing import ClassVar
from urllib.parse import quote

from pydantic import Field

from runner.errors import TemporaryError
from runner.host.events import FILE_SENT
from runner.host.filenames import media_type, safe_name
from runner.host.files import FILES_KEPT, SentFiles
from runner.host.tools.tool import Arguments, Connection, Context, Effect, Tool, ToolError
from runner.model import DeliveryKind, Event, StoredFile
from runner.sandbox.beneath import MAX_PATH
from runner.sandbox.spawner import WORKSPACE
from runner.store import event_log, files, groups, outbox

MAX_CAPTION = 4_000


class SendFileArguments(Arguments):
    """Which file, and what to say with it."""

    path: str = Field(
        min_length=1,
        max_length=MAX_PATH,
        description="The file, relative to the workspace. Directories and links are not sent.",
    )
    caption: str = Field("", max_length=MAX_CAPTION, description="A few words to go with it.")


class SendFile(Tool[SendFileArguments]):
    """See the module."""

    name: ClassVar[str] = "send_file"
    description: ClassVar[str] = (
        "Send a file of your workspace to the people in the chat. They get a copy of what it "
        "holds now."
    )
    arguments: ClassVar[type[Arguments]] = SendFileArguments
    table: ClassVar[str] = "send_file"

    def __init__(self, sent: SentFiles) -> None:
        self._sent = sent

    async def call(self, context: Context, arguments: SendFileArguments) -> str:
        group = await context.read(lambda c: groups.need(c, context.group))
        limit = context.settings.tools.send_file.max_size
        path = _relative(arguments.path)
        try:
            file_id, size = await self._sent.take(group.folder, path, limit)
        except TemporaryError as e:
            raise ToolError(e.message, hint=e.hint, code=e.code) from None
        name = safe_name(path)
        turn = context.turn
        file = StoredFile(file_id, group.id, turn.id, name, media_type(name), size, time.time())
        data = {
            **file_json(file, context.settings.server.public_url),
            "caption": arguments.caption,
        }
        written = False
        pushed_out: list[str] = []

        def work(c: Connection, event_id: int) -> Effect:
            nonlocal written, pushed_out
            pushed_out = files.make_room(c, group.id, size, limit * FILES_KEPT)
            files.add(c, file)
            webhook = context.of_group.webhook
            told = outbox.say(c, turn, DeliveryKind.FILE, FILE_SENT, data, webhook)
            delivery = told.id if told is not None else None
            said = {"turn_id": turn.id, "delivery_id": delivery, **data}
            event = Event(event_id, group.id, FILE_SENT, said, turn.id)
            event_log.append(c, [event])
            written = True
            return Effect(f"sent {name} ({size} bytes)", event)

        try:
            told = await context.once(work)
        except BaseException:
            if not written:  # else nobody knows what became of the transaction: the sweep sees
                self._sent.discard(group.folder, [file_id])
            raise
        self._sent.discard(group.folder, pushed_out if written else [file_id])
        return told


def file_json(file: StoredFile, public_url: str) -> dict[str, object]:
    """A file as events, webhooks and the API show it; its URL wants the API's token."""
    return {
        "file_id": file.id,
        "name": file.name,
        "media_type": file.media_type,
        "size": file.size,
        "url": f"{public_url.rstrip('/')}/api/groups/{_segment(file.group)}/files/{file.id}",
    }


def _relative(path: str) -> str:
    """Agents know their workspace by its place inside the sandbox."""
    return path.removeprefix(f"{WORKSPACE}/")


def _segment(group: str) -> str:
    encoded = quote(group, safe="")
    return encoded.replace(".", "%2E") if group in (".", "..") else encoded
