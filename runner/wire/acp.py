"""The part of the Agent Client Protocol v1 that host and agent use, as typed frames.

Field names are the protocol's (camelCase on the wire); unknown fields are ignored and unknown
``session/update`` kinds come back as ``None``, so that newer peers still talk to us.
https://agentclientprotocol.com/protocol/schema
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

PROTOCOL_VERSION = 1

INITIALIZE = "initialize"
AUTHENTICATE = "authenticate"
SESSION_NEW = "session/new"
SESSION_LOAD = "session/load"
SESSION_RESUME = "session/resume"
SESSION_PROMPT = "session/prompt"
SESSION_CANCEL = "session/cancel"
SESSION_UPDATE = "session/update"
REQUEST_PERMISSION = "session/request_permission"
STEER = "_nanokimi/steer"

StopReason = Literal["end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled"]
ToolKind = Literal[
    "read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other"
]
ToolStatus = Literal["pending", "in_progress", "completed", "failed"]

# JSON-RPC error codes of ACP: https://agentclientprotocol.com/protocol/schema#errorcode
AUTH_REQUIRED = -32000
RESOURCE_NOT_FOUND = -32002


class _Wire(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class Implementation(_Wire, omit_defaults=False):
    name: str
    version: str = ""
    title: str | None = None


class SessionCapabilities(_Wire):
    resume: dict[str, Any] | None = None


class PromptCapabilities(_Wire):
    image: bool = False
    audio: bool = False
    embedded_context: bool = False


class AgentCapabilities(_Wire):
    load_session: bool = False
    prompt_capabilities: PromptCapabilities | None = None
    session_capabilities: SessionCapabilities | None = None


class InitializeParams(_Wire, omit_defaults=False):
    protocol_version: int
    client_capabilities: dict[str, Any] | None = None
    client_info: Implementation | None = None


class InitializeResult(_Wire, omit_defaults=False):
    protocol_version: int
    agent_capabilities: AgentCapabilities | None = None
    agent_info: Implementation | None = None
    auth_methods: list[dict[str, Any]] | None = None


class NewSessionParams(_Wire, omit_defaults=False):
    cwd: str
    mcp_servers: list[dict[str, Any]] = []


class NewSessionResult(_Wire):
    session_id: str


class LoadSessionParams(_Wire, omit_defaults=False):
    """``session/load`` (history is replayed) and ``session/resume`` (it is not)."""

    session_id: str
    cwd: str
    mcp_servers: list[dict[str, Any]] = []


class Content(_Wire):
    """One content block; only ``text`` has a meaning for us so far."""

    type: str
    text: str | None = None
    data: str | None = None
    mime_type: str | None = None
    uri: str | None = None
    resource: dict[str, Any] | None = None


class PromptParams(_Wire, omit_defaults=False):
    session_id: str
    prompt: list[Content]


class Usage(_Wire):
    total_tokens: int
    input_tokens: int
    output_tokens: int
    thought_tokens: int | None = None
    cached_read_tokens: int | None = None


class PromptResult(_Wire):
    stop_reason: StopReason
    usage: Usage | None = None


class CancelParams(_Wire):
    session_id: str


class SteerParams(_Wire):
    """``id`` names the message, so that it is heard once however often it is sent."""

    session_id: str
    text: str
    id: str = ""


class _Update(_Wire, tag_field="sessionUpdate", omit_defaults=True):
    pass


class UserMessageChunk(_Update, tag="user_message_chunk"):
    content: Content


class AgentMessageChunk(_Update, tag="agent_message_chunk"):
    content: Content


class AgentThoughtChunk(_Update, tag="agent_thought_chunk"):
    content: Content


class ToolCall(_Update, tag="tool_call"):
    tool_call_id: str
    title: str
    kind: str | None = None
    status: ToolStatus | None = None
    raw_input: Any = None
    content: list[dict[str, Any]] | None = None


class ToolCallUpdate(_Update, tag="tool_call_update"):
    tool_call_id: str
    title: str | None = None
    kind: str | None = None
    status: ToolStatus | None = None
    content: list[dict[str, Any]] | None = None
    raw_output: Any = None


class UsageUpdate(_Update, tag="usage_update"):
    """``used`` of ``size`` tokens of the context window are taken."""

    used: int
    size: int


SessionUpdate = (
    UserMessageChunk
    | AgentMessageChunk
    | AgentThoughtChunk
    | ToolCall
    | ToolCallUpdate
    | UsageUpdate
)
_KINDS: dict[str, type[SessionUpdate]] = {
    "user_message_chunk": UserMessageChunk,
    "agent_message_chunk": AgentMessageChunk,
    "agent_thought_chunk": AgentThoughtChunk,
    "tool_call": ToolCall,
    "tool_call_update": ToolCallUpdate,
    "usage_update": UsageUpdate,
}


class _Kind(msgspec.Struct):
    sessionUpdate: str  # noqa: N815


class SessionNotification(_Wire):
    session_id: str
    update: msgspec.Raw


class UpdateParams(_Wire):
    """``session/update`` as we send it."""

    session_id: str
    update: SessionUpdate


class PermissionOption(_Wire):
    option_id: str
    name: str = ""
    kind: str = ""


class PermissionParams(_Wire):
    session_id: str
    options: list[PermissionOption]
    tool_call: dict[str, Any] = {}


_T = TypeVar("_T")


def parse(kind: type[_T], raw: msgspec.Raw | bytes) -> _T:
    """Raw JSON to one of the types above.

    Raises:
        msgspec.DecodeError: not of that shape (``ValidationError`` names the field).
    """
    return msgspec.json.decode(raw, type=kind)


def parse_update(raw: msgspec.Raw) -> tuple[str, SessionUpdate | None]:
    """``(sessionId, update)`` of a ``session/update``; ``None`` for a kind we do not know.

    Raises:
        msgspec.DecodeError: the frame or the update is not of its shape.
    """
    note = parse(SessionNotification, raw)
    kind = _KINDS.get(parse(_Kind, note.update).sessionUpdate)
    return note.session_id, None if kind is None else parse(kind, note.update)
