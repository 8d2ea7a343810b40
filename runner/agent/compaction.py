"""When the conversation is summed up, and how the model is asked to do it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from runner.agent import chat
from runner.agent.chat import AssistantMessage, ToolMessage, UserMessage
from runner.agent.conversation import BYTES_PER_TOKEN

CLIP_TOOL = 2_000
SYSTEM = "You sum up the work of a chat group's agent for its later self."
TASK = """\
Above is the conversation so far, each line behind "> ". It no longer fits. Write the summary that \
takes its place: what people asked and decided, names, facts and paths that matter, what was done \
with which result, what is unfinished and what comes next. Plain text, no preamble."""
HEADER = "Summary of the conversation so far, which was longer:\n\n"


def is_due(used: int, reserved: int, size: int) -> bool:
    """``used`` tokens leave less than ``reserved`` of ``size``."""
    return used + reserved >= size


def request_messages(context: Iterable[bytes], size: int) -> list[bytes]:
    """The request for a summary. It fits into half of ``size`` tokens: the oldest lines go first.

    The conversation goes in as quoted text, so that no line of it is taken for an instruction and
    no rule about tool messages matters.
    """
    lines = [f"> {line}" for message in context for line in _lines(message)]
    room = size * BYTES_PER_TOKEN // 2
    kept: list[str] = []
    for line in reversed(lines):
        room -= len(line.encode("utf-8", "replace")) + 1
        if room < 0:
            kept.append("> (older lines left out)")
            break
        kept.append(line)
    text = "\n".join([*reversed(kept), "", TASK])
    return [chat.encode(chat.SystemMessage(SYSTEM)), chat.user(text)]


def summary_message(text: str) -> bytes:
    return chat.user(HEADER + text)


def _lines(message: bytes) -> list[str]:
    match chat.decode(message):
        case UserMessage(content=text):
            text = f"[user] {text}"
        case AssistantMessage(content=content, tool_calls=calls):
            parts = [f"[agent] {content}"] if content else []
            parts += [
                f"[agent calls {c.function.name}] {_clip(c.function.arguments)}" for c in calls
            ]
            text = "\n".join(parts)
        case ToolMessage(content=content):
            text = f"[result] {_clip(content)}"
        case _:
            text = ""
    return [line[:20_000] for line in text.splitlines()]


def _clip(text: str) -> str:
    half = CLIP_TOOL // 2
    return text if len(text) <= CLIP_TOOL else f"{text[:half]} [...] {text[-half:]}"
