"""What the real API refuses, as pure functions: a request comes in, the error or nothing goes out.

The texts are the real ones where they are known, so that code which reads them meets the truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.demo.catalog import DemoModel
from runner.demo.schema_rules import check_tools

Json = Mapping[str, Any]

MAX_TOOL_ID = 64
IMAGE_TOKENS = 1_024
ROLES = ("system", "user", "assistant", "tool")
EFFORTS = ("low", "high", "max")
# First words of the User-Agent that the Kimi Code base lets in.
PRODUCTS = ("nanokimi/", "KimiCLI/", "kimi-code", "kimi-cli/", "claude-cli/")
_MESSAGE_KEYS = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "reasoning_content", "tool_calls", "partial"},
    "tool": {"role", "content", "name", "tool_call_id"},
}
_FIXED_SAMPLING = {"top_p": 0.95, "n": 1, "presence_penalty": 0, "frequency_penalty": 0}


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error answer in Kimi's shape: ``{"error": {"message", "type"}}``."""

    status: int
    type: str
    message: str

    def body(self) -> bytes:
        return json.dumps({"error": {"message": self.message, "type": self.type}}).encode()


def invalid(message: str) -> ApiError:
    return ApiError(400, "invalid_request_error", f"Invalid request: {message}")


def check_client(user_agent: str) -> ApiError | None:
    """The Kimi Code base lets only known coding agents in."""
    if user_agent.startswith(PRODUCTS):
        return None
    return ApiError(
        403,
        "access_terminated_error",
        "Kimi For Coding is currently only available for Coding Agents such as Kimi CLI, "
        "Claude Code, Roo Code, Kilo Code, etc.",
    )


def find_model(models: Mapping[str, DemoModel], name: object) -> DemoModel | ApiError:
    """The model, or the 404 that retired and unknown names get."""
    if not isinstance(name, str) or not name:
        return invalid("model is required")
    return models.get(name) or ApiError(
        404, "resource_not_found_error", f"Not found the model {name} or Permission denied"
    )


def thinking_enabled(request: Json, model: DemoModel) -> bool:
    """Whether this request thinks: always, or unless it was switched off."""
    thinking = request.get("thinking")
    off = isinstance(thinking, Mapping) and thinking.get("type") == "disabled"
    return model.thinking == "always" or not off


def check_request(request: Json, model: DemoModel) -> ApiError | None:
    """Everything about a chat request that the API refuses with 400; ``None`` lets it through."""
    return next(_problems(request, model), None)


def _problems(request: Json, model: DemoModel) -> Iterator[ApiError]:
    thinking = thinking_enabled(request, model)
    yield from _check_options(request, model, thinking)
    yield from check_tools(request.get("tools"), invalid)
    yield from _check_tool_choice(request, thinking)
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        yield invalid("messages must be a non-empty list")
        return
    yield from _check_shapes(messages)
    if thinking:
        yield from _check_reasoning(messages)
    yield from _check_pairing(messages)
    if (used := count_tokens(request)) > model.context:
        yield invalid(
            f"Your request exceeded model token limit: {model.context} (requested: {used})"
        )


def _check_options(request: Json, model: DemoModel, thinking: bool) -> Iterator[ApiError]:
    match request.get("thinking"):
        case None:
            pass
        case {"type": "enabled" | "disabled", **rest}:
            if set(rest) - {"keep", "effort"} or rest.get("keep") not in (None, "all"):
                yield invalid('thinking takes type, keep ("all") and effort')
            if rest.get("effort", "high") not in EFFORTS:
                yield invalid(f"thinking.effort must be one of {', '.join(EFFORTS)}")
        case _:
            yield invalid('thinking.type must be "enabled" or "disabled"')
    if model.effort and request.get("reasoning_effort", "high") not in EFFORTS:
        yield invalid(f"reasoning_effort must be one of {', '.join(EFFORTS)}")
    fixed = 1 if thinking else 0.6
    if (temperature := request.get("temperature")) is not None and temperature != fixed:
        yield invalid(f"invalid temperature: only {fixed} is allowed for this model")
    for name, value in _FIXED_SAMPLING.items():
        if request.get(name) not in (None, value):
            yield invalid(f"invalid {name}: only {value} is allowed for this model")
    limits = [k for k in ("max_tokens", "max_completion_tokens") if request.get(k) is not None]
    if len(limits) == 2:
        yield invalid("max_tokens is deprecated and does not go with max_completion_tokens")
    for name in limits:
        if type(request[name]) is not int or request[name] < 1:
            yield invalid(f"{name} must be a positive integer")
    if not isinstance(request.get("stream", False), bool):
        yield invalid("stream must be a boolean")
    if request.get("stream_options") is not None and not request.get("stream"):
        yield invalid("stream_options is only allowed when stream is enabled")
    if not isinstance(request.get("prompt_cache_key", ""), str):
        yield invalid("prompt_cache_key must be a string")


def _check_tool_choice(request: Json, thinking: bool) -> Iterator[ApiError]:
    match request.get("tool_choice"):
        case None | "auto" | "none":
            return
        case "required":
            choice = "required"
        case {"type": "function", "function": {"name": str()}}:
            choice = "specified"
        case _:
            yield invalid("tool_choice must be auto, none, required or a function")
            return
    if thinking:
        yield invalid(f"tool_choice '{choice}' is incompatible with thinking enabled")


def _check_shapes(messages: list[Any]) -> Iterator[ApiError]:
    opening = True
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            yield invalid(f"message at position {index} must have one of the roles {ROLES}")
            return
        role = message["role"]
        if unknown := set(message) - _MESSAGE_KEYS[role]:
            yield invalid(
                f"message at position {index} with role '{role}' has unknown fields: "
                f"{', '.join(sorted(map(str, unknown)))}"
            )
        if role == "system" and not opening:
            yield invalid(f"message at position {index} with role 'system' must come first")
        opening = opening and role == "system"
        yield from _check_content(message, index)
        if role == "assistant":
            yield from _check_calls(message, index)
        if role == "tool" and not _is_id(message.get("tool_call_id")):
            yield invalid("tool_call_id  is not found")
    if messages[-1]["role"] == "assistant" and not messages[-1].get("partial"):
        yield invalid("the last message must not be an assistant message unless it is partial")


def _check_content(message: Json, index: int) -> Iterator[ApiError]:
    content = message.get("content")
    role = message["role"]
    called = role == "assistant" and bool(message.get("tool_calls"))
    match content:
        case None:
            if not called:
                yield invalid(f"message at position {index} with role '{role}' must not be empty")
        case str():
            if called and not content:
                yield invalid("text content is empty")
            elif not content and role != "tool":
                yield invalid(f"message at position {index} with role '{role}' must not be empty")
        case [_, *_]:
            for part in content:
                yield from _check_part(part)
        case _:
            yield invalid(f"message at position {index} has a content of a wrong type")


def _check_part(part: object) -> Iterator[ApiError]:
    match part:
        case {"type": "text", "text": str() as text, **rest} if not rest:
            if not text:
                yield invalid("text content is empty")
        case {"type": "image_url", "image_url": {"url": str() as url}, **rest} if not rest:
            if not (url.startswith("ms://") or (url.startswith("data:") and ";base64," in url)):
                yield invalid("unsupported image url: use base64 data or an ms:// file id")
        case _:
            yield invalid("content parts must be text or image_url, without further fields")


def _check_calls(message: Json, index: int) -> Iterator[ApiError]:
    if not isinstance(message.get("reasoning_content"), str | None):
        yield invalid(f"message at position {index}: reasoning_content must be a string")
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list) or not calls:
        yield invalid(f"message at position {index}: tool_calls must be a non-empty list")
        return
    ids = []
    for call in calls:
        match call:
            case {
                "id": str() as id_,
                "type": "function",
                "function": {"name": str(), "arguments": str()},
            } if _is_id(id_):
                ids.append(id_)
            case _:
                yield invalid(
                    f"message at position {index}: a tool call needs an id of at most "
                    f"{MAX_TOOL_ID} characters, type function, and a name and arguments as strings"
                )
                return
    if len(set(ids)) != len(ids):
        yield invalid(f"message at position {index}: tool call ids must be unique")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TOOL_ID


def _check_reasoning(messages: list[Json]) -> Iterator[ApiError]:
    for index, message in enumerate(messages):
        if message.get("tool_calls") and not message.get("reasoning_content"):
            yield ApiError(
                400,
                "invalid_request_error",
                "thinking is enabled but reasoning_content is missing in assistant tool call "
                f"message at index {index}",
            )


def _check_pairing(messages: list[Json]) -> Iterator[ApiError]:
    """Tool messages directly follow their call, and each id is answered exactly once."""
    open_ids: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            id_ = message["tool_call_id"]
            if id_ not in open_ids:
                yield invalid(f"tool_call_id {id_} is not found")
            open_ids.discard(id_)
            continue
        if open_ids:
            yield _unanswered(open_ids)
        open_ids = {call["id"] for call in message.get("tool_calls") or ()}
    if open_ids:
        yield _unanswered(open_ids)


def _unanswered(ids: set[str]) -> ApiError:
    return invalid(
        "an assistant message with 'tool_calls' must be followed by tool messages responding to "
        "each 'tool_call_id'. The following tool_call_ids did not have response messages: "
        + ", ".join(sorted(ids))
    )


def count_tokens(request: Json) -> int:
    """Tokens of the prompt: a quarter of its bytes, and a fixed price for an image."""
    images = 0

    def plain(value: Any) -> Any:
        nonlocal images
        if isinstance(value, Mapping):
            if value.get("type") == "image_url":
                images += 1
                return None
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list) else value

    prompt = [plain(request.get("tools") or []), plain(request.get("messages") or [])]
    text = json.dumps(prompt, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode("utf-8", "surrogatepass")) // 4 + images * IMAGE_TOKENS
