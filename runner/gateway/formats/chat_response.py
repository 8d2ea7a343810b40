"""An Anthropic message as a chat completion. Pure; the streamed one is next door.

Reasoning goes into ``reasoning_content``. Where the provider signed it, the blocks also go into
``thinking_blocks``: a client that sends them back lets the provider know its own words again.
"""

from __future__ import annotations

from typing import Any

from runner.gateway.formats import Json, outcome, thinking, toolids
from runner.gateway.formats.anthropic_response import chat_id
from runner.gateway.formats.chat_to_anthropic import THINKING_BLOCKS
from runner.gateway.formats.errors import Untranslatable, broken, stream_error, truncated
from runner.gateway.formats.fields import BadField, an_object, arguments_text, text


def to_chat_response(response: Json, *, model: str, created: int) -> Json:
    """The chat completion that says the same.

    Args:
        model: the name the client asked for.
        created: Unix seconds.

    Raises:
        Untranslatable: it is an error (the provider's), cut off, or no message (502).
    """
    if response.get("type") == "error" or response.get("error") is not None:
        raise Untranslatable(stream_error(response))
    blocks = response.get("content")
    if not isinstance(blocks, list):
        raise broken("has no content")
    if response.get("stop_reason") is None:
        raise Untranslatable(truncated())
    try:
        message = _message(blocks)
    except BadField as e:
        raise broken(f"has a malformed block: {e.message}") from None
    finish = outcome.finish_fields(response["stop_reason"], response.get("stop_sequence"))
    result: Json = {
        "id": chat_id(str(response.get("id") or "")),
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None} | finish],
    }
    if isinstance(usage := response.get("usage"), dict):
        result["usage"] = outcome.chat_usage(usage)
    return result


def signed_elsewhere(block: Json) -> bool:
    """A thinking block that its provider wants back as it is."""
    proof = block.get("signature") if block.get("type") == "thinking" else block.get("data")
    return bool(proof) and thinking.ours(block) is None


def _message(blocks: list[Any]) -> Json:
    said: list[str] = []
    reasoning: list[str] = []
    signed: list[Json] = []
    calls: list[Json] = []
    for index, raw in enumerate(blocks):
        try:
            block = an_object(raw, "type")
            match text(block, "type"):
                case "text":
                    said.append(text(block, "text"))
                case "thinking":
                    reasoning.append(text(block, "thinking"))
                    if signed_elsewhere(block):
                        signed.append(block)
                case "redacted_thinking":
                    reasoning.append(thinking.ours(block) or "")
                    if signed_elsewhere(block):
                        signed.append(block)
                case "tool_use":
                    calls.append(_call(block))
                case _:
                    pass  # work of the provider's own servers; its texts tell what came of it
        except BadField as e:
            raise e.inside("content", index) from None
    message: Json = {"role": "assistant", "content": "".join(said) or None, "refusal": None}
    if any(reasoning):
        message["reasoning_content"] = "".join(reasoning)
    if signed:
        message[THINKING_BLOCKS] = signed
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: Json) -> Json:
    arguments = arguments_text(an_object(block.get("input"), "input"))
    return {
        "id": toolids.to_chat(text(block, "id")),
        "type": "function",
        "function": {"name": text(block, "name"), "arguments": arguments},
    }
