"""What we encode is held against the official SDK's models, and what it writes against ours."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from acp import schema
from pydantic import BaseModel

from runner.wire import acp

TEXT = acp.Content(type="text", text="hi")

# Frame of ours, and the official model of the same name on the wire.
OURS: list[tuple[msgspec.Struct, type[BaseModel]]] = [
    (acp.InitializeParams(protocol_version=1), schema.InitializeRequest),
    (
        acp.InitializeParams(
            protocol_version=1,
            client_capabilities={},
            client_info=acp.Implementation(name="nanokimi", version="1.0"),
        ),
        schema.InitializeRequest,
    ),
    (
        acp.InitializeParams(protocol_version=1, client_info=acp.Implementation(name="n")),
        schema.InitializeRequest,
    ),
    (
        acp.InitializeResult(
            protocol_version=1,
            agent_capabilities=acp.AgentCapabilities(
                load_session=True,
                prompt_capabilities=acp.PromptCapabilities(image=True, embedded_context=True),
                session_capabilities=acp.SessionCapabilities(resume={}),
            ),
            agent_info=acp.Implementation(name="a", version="2", title="An agent"),
            auth_methods=[],
        ),
        schema.InitializeResponse,
    ),
    (acp.NewSessionParams(cwd="/workspace"), schema.NewSessionRequest),
    (acp.NewSessionResult(session_id="s"), schema.NewSessionResponse),
    (acp.LoadSessionParams(session_id="s", cwd="/workspace"), schema.LoadSessionRequest),
    (acp.LoadSessionParams(session_id="s", cwd="/workspace"), schema.ResumeSessionRequest),
    (
        acp.PromptParams(
            session_id="s", prompt=[TEXT], meta={"nanokimi": {"turn": "t", "group": "g"}}
        ),
        schema.PromptRequest,
    ),
    (acp.PromptResult(stop_reason="end_turn"), schema.PromptResponse),
    (
        acp.PromptResult(
            stop_reason="cancelled",
            usage=acp.Usage(
                total_tokens=30,
                input_tokens=10,
                output_tokens=20,
                thought_tokens=5,
                cached_read_tokens=0,
            ),
            meta={"nanokimi": {}},
        ),
        schema.PromptResponse,
    ),
    (acp.CancelParams(session_id="s"), schema.CancelNotification),
    *(
        (acp.UpdateParams(session_id="s", update=update), schema.SessionNotification)
        for update in (
            acp.UserMessageChunk(content=TEXT),
            acp.AgentMessageChunk(content=TEXT),
            acp.AgentThoughtChunk(content=TEXT, meta={"nanokimi": {"seq": 1}}),
            acp.ToolCall(
                tool_call_id="1", title="bash", kind="execute", status="pending", raw_input={"a": 1}
            ),
            acp.ToolCall(tool_call_id="1", title="bash"),
            acp.ToolCallUpdate(
                tool_call_id="1",
                status="completed",
                content=[{"type": "content", "content": {"type": "text", "text": "out"}}],
                raw_output={"code": 0},
            ),
            acp.ToolCallUpdate(tool_call_id="1"),
            acp.UsageUpdate(used=5, size=200_000),
        )
    ),
]


def said(value: Any) -> Any:
    """Without nulls: on this wire, null and left out are the same."""
    if isinstance(value, dict):
        return {k: said(v) for k, v in value.items() if v is not None}
    return [said(v) for v in value] if isinstance(value, list) else value


def contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            k in whole and contains(whole[k], v) for k, v in part.items()
        )
    if isinstance(part, list):
        return (
            isinstance(whole, list) and len(whole) == len(part) and all(map(contains, whole, part))
        )
    return bool(whole == part)


@pytest.mark.parametrize(("frame", "official"), OURS, ids=lambda v: type(v).__name__)
def test_what_we_send_is_understood_by_the_official_sdk_in_full(
    frame: msgspec.Struct, official: type[BaseModel]
) -> None:
    """The SDK drops what it cannot read in silence, so what it understood is written out again."""
    line = msgspec.json.encode(frame)
    understood = official.model_validate_json(line)
    written = json.loads(understood.model_dump_json(by_alias=True, exclude_none=True))
    assert contains(written, said(json.loads(line)))


THEIRS: list[tuple[BaseModel, type[msgspec.Struct], dict[str, Any]]] = [
    (
        schema.InitializeRequest(
            protocol_version=1,
            client_capabilities=schema.ClientCapabilities(),
            client_info=schema.Implementation(name="zed", version="1"),
        ),
        acp.InitializeParams,
        {"protocol_version": 1, "client_info": acp.Implementation(name="zed", version="1")},
    ),
    (
        schema.InitializeResponse(
            protocol_version=1, agent_capabilities=schema.AgentCapabilities(load_session=True)
        ),
        acp.InitializeResult,
        {"protocol_version": 1},
    ),
    (
        schema.NewSessionRequest(cwd="/w", mcp_servers=[]),
        acp.NewSessionParams,
        {"cwd": "/w", "mcp_servers": []},
    ),
    (schema.NewSessionResponse(session_id="s"), acp.NewSessionResult, {"session_id": "s"}),
    (
        schema.LoadSessionRequest(session_id="s", cwd="/w", mcp_servers=[]),
        acp.LoadSessionParams,
        {"session_id": "s", "cwd": "/w"},
    ),
    (
        schema.PromptRequest(
            session_id="s",
            prompt=[
                schema.TextContentBlock(type="text", text="hi"),
                schema.ImageContentBlock(type="image", data="AA==", mime_type="image/png"),
                schema.ResourceContentBlock(type="resource_link", name="n", uri="file:///x"),
            ],
        ),
        acp.PromptParams,
        {"session_id": "s"},
    ),
    (
        schema.PromptResponse(
            stop_reason="max_tokens",
            usage=schema.Usage(total_tokens=3, input_tokens=1, output_tokens=2),
        ),
        acp.PromptResult,
        {
            "stop_reason": "max_tokens",
            "usage": acp.Usage(total_tokens=3, input_tokens=1, output_tokens=2),
        },
    ),
    (schema.CancelNotification(session_id="s"), acp.CancelParams, {"session_id": "s"}),
    (
        schema.RequestPermissionRequest(
            session_id="s",
            tool_call=schema.ToolCallUpdate(tool_call_id="1"),
            options=[schema.PermissionOption(option_id="y", name="Yes", kind="allow_once")],
        ),
        acp.PermissionParams,
        {
            "session_id": "s",
            "options": [acp.PermissionOption(option_id="y", name="Yes", kind="allow_once")],
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize("nulls", [False, True], ids=["terse", "with nulls"])
@pytest.mark.parametrize(
    ("frame", "ours", "expected"), THEIRS, ids=[type(t[0]).__name__ for t in THEIRS]
)
def test_what_the_official_sdk_sends_is_understood(
    frame: BaseModel, ours: type[msgspec.Struct], expected: dict[str, Any], nulls: bool
) -> None:
    line = frame.model_dump_json(by_alias=True, exclude_none=not nulls).encode()
    got = acp.parse(ours, line)
    assert {name: getattr(got, name) for name in expected} == expected


UPDATES: list[tuple[BaseModel, type[msgspec.Struct] | None]] = [
    (
        schema.AgentMessageChunk(
            session_update="agent_message_chunk",
            content=schema.TextContentBlock(type="text", text="hi"),
        ),
        acp.AgentMessageChunk,
    ),
    (
        schema.AgentThoughtChunk(
            session_update="agent_thought_chunk",
            content=schema.TextContentBlock(type="text", text="hm"),
        ),
        acp.AgentThoughtChunk,
    ),
    (
        schema.UserMessageChunk(
            session_update="user_message_chunk",
            content=schema.TextContentBlock(type="text", text="yo"),
        ),
        acp.UserMessageChunk,
    ),
    (
        schema.ToolCallStart(
            session_update="tool_call",
            tool_call_id="1",
            title="read",
            kind="read",
            status="in_progress",
            locations=[schema.ToolCallLocation(path="/x", line=3)],
            raw_input={"path": "/x"},
        ),
        acp.ToolCall,
    ),
    (
        schema.ToolCallProgress(
            session_update="tool_call_update", tool_call_id="1", status="failed"
        ),
        acp.ToolCallUpdate,
    ),
    (schema.UsageUpdate(session_update="usage_update", used=1, size=2), acp.UsageUpdate),
    (schema.CurrentModeUpdate(session_update="current_mode_update", current_mode_id="yolo"), None),
    (schema.AgentPlanUpdate(session_update="plan", entries=[]), None),
]


@pytest.mark.parametrize("nulls", [False, True], ids=["terse", "with nulls"])
@pytest.mark.parametrize(("update", "ours"), UPDATES, ids=[type(u[0]).__name__ for u in UPDATES])
def test_updates_of_the_official_sdk_are_understood_or_passed_over(
    update: BaseModel, ours: type[msgspec.Struct] | None, nulls: bool
) -> None:
    note = schema.SessionNotification(session_id="s", update=update)
    line = note.model_dump_json(by_alias=True, exclude_none=not nulls).encode()
    session_id, got = acp.parse_update(msgspec.Raw(line))
    assert session_id == "s"
    if ours is None:
        assert got is None
    else:
        assert type(got) is ours
        official = json.loads(update.model_dump_json(by_alias=True, exclude_none=True))
        assert contains(official, said(json.loads(msgspec.json.encode(got))))


def test_an_update_of_an_unknown_kind_is_none_with_its_session() -> None:
    raw = msgspec.Raw(b'{"sessionId":"s","update":{"sessionUpdate":"hologram","x":[1]}}')
    assert acp.parse_update(raw) == ("s", None)


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b'{"sessionId":"s"}',
        b'{"sessionId":3,"update":{}}',
        b'{"sessionId":"s","update":{}}',
        b'{"sessionId":"s","update":[]}',
        b'{"sessionId":"s","update":{"sessionUpdate":3}}',
        b'{"sessionId":"s","update":{"sessionUpdate":"agent_message_chunk"}}',
        b'{"sessionId":"s","update":{"sessionUpdate":"agent_message_chunk","content":"hi"}}',
        b'{"sessionId":"s","update":{"sessionUpdate":"tool_call","toolCallId":1,"title":"x"}}',
    ],
)
def test_an_update_of_a_wrong_shape_is_a_decode_error(raw: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        acp.parse_update(msgspec.Raw(raw))


def test_what_we_send_comes_back_to_us_unchanged() -> None:
    for frame, _ in OURS:
        if isinstance(frame, acp.UpdateParams):
            got = acp.parse_update(msgspec.Raw(msgspec.json.encode(frame)))
            assert got == (frame.session_id, frame.update)
        else:
            assert acp.parse(type(frame), msgspec.json.encode(frame)) == frame
