"""A streamed Anthropic message as chat completion chunks. Pure.

https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner.gateway.failure import GatewayFailure
from runner.gateway.formats import Json, outcome, thinking, toolids
from runner.gateway.formats.anthropic_response import chat_id
from runner.gateway.formats.chat_response import signed_elsewhere
from runner.gateway.formats.chat_to_anthropic import THINKING_BLOCKS
from runner.gateway.formats.errors import openai_body, stream_error, truncated
from runner.gateway.formats.fields import arguments_text


@dataclass(slots=True)
class _Block:
    """``start`` is as it was announced; ``call`` is a tool's index among the calls."""

    start: Json
    call: int | None
    said: list[str] = field(default_factory=list)
    signature: str = ""


class AnthropicToChatStream:
    """Feed it events, then call :meth:`end` once; each gives the chunks that can go out now.

    ``data: [DONE]`` is the caller's to add when :attr:`failure` is ``None`` after the end. An
    ``error`` event, or an end without a stop reason, gives a chunk with ``error``;
    :attr:`failure` then says what happened, and everything after it is ignored.

    Args:
        model: the name the client asked for.
        created: Unix seconds.
        include_usage: the request's ``stream_options.include_usage``.
    """

    def __init__(self, *, model: str, created: int, include_usage: bool = False) -> None:
        self.failure: GatewayFailure | None = None
        self._head: Json = {
            "id": chat_id(""),
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._include_usage = include_usage
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._finish: Json | None = None
        self._usage: Json = {}

    def feed(self, event: Json) -> list[Json]:
        if self.failure is not None:
            return []
        match event:
            case {"type": "message_start", "message": dict() as message}:
                self._head = self._head | {"id": chat_id(str(message.get("id") or ""))}
                self._count(message)
                return [self._chunk({"role": "assistant", "content": ""})]
            case {"type": "content_block_start", "index": int() as index, "content_block": block}:
                return self._begin(index, block) if isinstance(block, dict) else []
            case {"type": "content_block_delta", "index": int() as index, "delta": dict() as delta}:
                return self._add(index, delta)
            case {"type": "content_block_stop", "index": int() as index}:
                return self._stop(index)
            case {"type": "message_delta"}:
                self._count(event)
                match event.get("delta"):
                    case {"stop_reason": str() as reason, **rest}:
                        self._finish = outcome.finish_fields(reason, rest.get("stop_sequence"))
            case {"type": "error"}:
                return self.fail(stream_error(event))
        return []

    def end(self) -> list[Json]:
        """The provider's stream is over: the last chunks, or that it was cut off."""
        if self.failure is not None:
            return []
        if self._finish is None:
            return self.fail(truncated())
        chunks = [chunk for index in list(self._blocks) for chunk in self._stop(index)]
        chunks.append(self._chunk({}, self._finish))
        if self._include_usage:
            usage = outcome.chat_usage(self._usage)
            chunks.append(self._head | {"choices": [], "usage": usage})
        return chunks

    def fail(self, failure: GatewayFailure) -> list[Json]:
        """The answer ends here, and this is why; also for a connection that broke."""
        self.failure = failure
        return [openai_body(failure)]

    def _count(self, holder: Json) -> None:
        """Usage is cumulative: what comes later counts, what it leaves out stays."""
        usage = holder.get("usage")
        if isinstance(usage, dict):
            self._usage |= {k: v for k, v in usage.items() if v is not None}

    def _begin(self, index: int, start: Json) -> list[Json]:
        block = self._blocks[index] = _Block(start, None)
        match start:
            case {"type": "text", "text": str() as words} if words:
                return [self._chunk({"content": words})]
            case {"type": "thinking", "thinking": str() as words} if words:
                block.said.append(words)
                return [self._chunk({"reasoning_content": words})]
            case {"type": "redacted_thinking"}:
                words = thinking.ours(start) or ""
                return [self._chunk({"reasoning_content": words})] if words else []
            case {"type": "tool_use"}:
                block.call = self._calls
                self._calls += 1
                call = {
                    "id": toolids.to_chat(str(start.get("id") or "")),
                    "type": "function",
                    "function": {"name": str(start.get("name") or ""), "arguments": ""},
                }
                return [self._chunk({"tool_calls": [{"index": block.call} | call]})]
        return []

    def _add(self, index: int, delta: Json) -> list[Json]:
        block = self._blocks.get(index)
        if block is None:
            return []
        match delta:
            case {"type": "text_delta", "text": str() as words} if words:
                return [self._chunk({"content": words})]
            case {"type": "thinking_delta", "thinking": str() as words} if words:
                block.said.append(words)
                return [self._chunk({"reasoning_content": words})]
            case {"type": "signature_delta", "signature": str() as signature}:
                block.signature += signature
            case {"type": "input_json_delta", "partial_json": str() as words} if words:
                block.said.append(words)
                return self._arguments(block, words)
        return []

    def _stop(self, index: int) -> list[Json]:
        block = self._blocks.pop(index, None)
        if block is None:
            return []
        if block.call is not None and not block.said:
            # Relays give the whole input at the start; no input at all is an empty object.
            value = block.start.get("input")
            return self._arguments(block, arguments_text(value if isinstance(value, dict) else {}))
        whole = block.start
        if whole.get("type") == "thinking":
            signature = block.signature or whole.get("signature") or ""
            whole = {"type": "thinking", "thinking": "".join(block.said), "signature": signature}
        elif whole.get("type") != "redacted_thinking":
            return []
        return [self._chunk({THINKING_BLOCKS: [whole]})] if signed_elsewhere(whole) else []

    def _arguments(self, block: _Block, words: str) -> list[Json]:
        call = {"index": block.call, "function": {"arguments": words}}
        return [self._chunk({"tool_calls": [call]})] if block.call is not None else []

    def _chunk(self, delta: Json, finish: Json | None = None) -> Json:
        choice: dict[str, Any] = {"index": 0, "delta": delta}
        return self._head | {"choices": [choice | (finish or {"finish_reason": None})]}
