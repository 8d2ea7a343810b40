"""One conversation: its journal on disk and what it adds up to in memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from runner.agent import chat, tools
from runner.agent.conversation import Conversation
from runner.agent.journal import Entry, Journal, ModelSaid, Steer, ToolSaid, UserSaid
from runner.agent.updates import Updates, tool_call_id
from runner.errors import NotFoundError

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Session:
    """Entries go to disk first, then into the conversation."""

    def __init__(self, id_: str, cwd: str, journal: Journal) -> None:
        self.id = id_
        self.cwd = cwd
        self.talk = Conversation()
        self._journal = journal

    @classmethod
    def create(cls, sessions: Path, cwd: str) -> Session:
        """A new session below the folder ``sessions``.

        Raises:
            TemporaryError: the disk is full or the folder cannot be written.
        """
        id_ = os.urandom(16).hex()
        return cls(id_, cwd, Journal.create(sessions / id_ / "journal.jsonl"))

    @classmethod
    def open(cls, sessions: Path, id_: str, cwd: str) -> Session:
        """A session that is on disk.

        Raises:
            NotFoundError: it is not there, or the id cannot be one of ours.
            TemporaryError, PermanentError: it cannot be opened, or its journal is broken.
        """
        if not _ID.fullmatch(id_):
            raise _unknown(id_)
        try:
            journal = Journal.open(sessions / id_ / "journal.jsonl")
        except FileNotFoundError:
            raise _unknown(id_) from None
        session = cls(id_, cwd, journal)
        try:
            for entry in journal.entries():
                session.talk.apply(entry)
        except BaseException:
            journal.close()
            raise
        return session

    def note(self, *entries: Entry) -> None:
        """Make the entries durable, then true.

        Raises:
            TemporaryError: they are neither.
        """
        self._journal.append(*entries)
        for entry in entries:
            self.talk.apply(entry)

    async def replay(self, updates: Updates) -> None:
        """Send the whole conversation as updates (``session/load``)."""
        step = 0
        for entry in self._journal.entries():
            match entry:
                case UserSaid(again=again):
                    updates.begin()
                    if not again:
                        await updates.user(_text_of(entry.message))
                case ModelSaid():
                    step = entry.step
                    updates.step(step)
                    message = chat.decode_assistant(entry.message)
                    await updates.thought(message.reasoning_content or "")
                    await updates.text(message.content or "")
                    for call in message.tool_calls:
                        id_ = tool_call_id(entry.turn, step, call.id)
                        await updates.tool_started(id_, call, tools.kind_of(call.function.name))
                case ToolSaid():
                    id_ = tool_call_id(entry.turn, step, entry.call)
                    await updates.tool_finished(id_, _text_of(entry.message), failed=entry.failed)
                case Steer():
                    await updates.user(_text_of(entry.message))
                case _:
                    pass

    def close(self) -> None:
        self._journal.close()


def _text_of(message: msgspec.Raw) -> str:
    said = chat.decode(message)
    return said.content or ""


def _unknown(id_: str) -> NotFoundError:
    return NotFoundError(f"there is no session {id_[:80]!r}", hint="start one with session/new")
