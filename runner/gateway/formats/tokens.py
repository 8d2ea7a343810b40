"""How many tokens a request is about, for ``count_tokens``. Pure, and the same each time.

No provider behind the gateway offers Anthropic's endpoint, and tokenizers differ by model, so this
is an estimate: a token is four bytes of UTF-8 (about right for English and code; a Chinese
character is three bytes and close to one token), an image is 1,024 tokens whatever its bytes, and
each message and each tool costs a few more for the marks around it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from runner.gateway.formats import Json

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 1024
MESSAGE_TOKENS = 4
TOOL_TOKENS = 8

_encode = msgspec.json.Encoder().encode


def estimate(request: Json) -> int:
    """Tokens of a chat request's prompt; translate an Anthropic one first.

    Size is that of the text and of the tools' JSON, without keys and base64 data.
    """
    size = extra = 0
    for message in _objects(request.get("messages")):
        extra += MESSAGE_TOKENS
        for words in _words(message):
            size += len(words.encode("utf-8", "surrogatepass"))
        extra += IMAGE_TOKENS * _images(message.get("content"))
    for tool in _objects(request.get("tools")):
        extra += TOOL_TOKENS
        size += len(_encode(tool.get("function")))
    return -(-size // BYTES_PER_TOKEN) + extra


def _words(message: Json) -> Iterable[str]:
    content = message.get("content")
    reasoning = message.get("reasoning_content")
    parts = [p.get("text") for p in _objects(content)]
    calls = [_object(c.get("function")) for c in _objects(message.get("tool_calls"))]
    names = [v for c in calls for v in (c.get("name"), c.get("arguments"))]
    return (v for v in (content, reasoning, *parts, *names) if isinstance(v, str))


def _images(content: Any) -> int:
    """Images and files: their bytes are not text."""
    return sum(p.get("type") in ("image_url", "file") for p in _objects(content))


def _objects(value: Any) -> list[Json]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
