"""The tool desk in MCP's words, by the official SDK.

https://modelcontextprotocol.io/specification : ``tools/list`` and ``tools/call``, each request by
itself, answered in JSON. Ours are, under ``_meta.nanokimi``: ``key`` of a call (see
:meth:`ToolDesk.call`) and ``tools``, the digest of a list.

The SDK takes long to import: only ``server`` imports this module, and not at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)

from runner import __version__
from runner.host.tools.desk import ToolDesk

GROUP = "nanokimi.group"
"""Where the ASGI scope says whose socket a request came by."""

_Ask = ServerRequestContext[Any, Any]


def make_manager(desk: ToolDesk, max_body: int) -> StreamableHTTPSessionManager:
    """Serves requests whose scope holds :data:`GROUP`; ``run()`` it once."""

    async def list_tools(ask: _Ask, _params: PaginatedRequestParams | None) -> ListToolsResult:
        group = _group(ask)
        tools = [
            Tool(name=o.name, description=o.description, input_schema=dict(o.schema))
            for o in desk.offers(group)
        ]
        meta = {"nanokimi": {"tools": desk.digest(group)}}
        return ListToolsResult(tools=tools, _meta=meta)

    async def call_tool(ask: _Ask, params: CallToolRequestParams) -> CallToolResult:
        said = await desk.call(_group(ask), params.name, params.arguments or {}, _key(ask))
        return CallToolResult(
            content=[TextContent(type="text", text=said.text)], is_error=said.failed
        )

    # What a sandbox sends wrongly is told to it, and is no news of the host's.
    logging.getLogger("mcp").setLevel(logging.ERROR)
    server: Server[Any] = Server(
        "nanokimi", version=__version__, on_list_tools=list_tools, on_call_tool=call_tool
    )
    return StreamableHTTPSessionManager(
        server, json_response=True, stateless=True, max_request_body_size=max_body
    )


def _group(ask: _Ask) -> str:
    assert ask.request is not None
    return str(ask.request.scope[GROUP])


def _key(ask: _Ask) -> object:
    meta = (ask.params or {}).get("_meta")
    ours = meta.get("nanokimi") if isinstance(meta, Mapping) else None
    return ours.get("key") if isinstance(ours, Mapping) else None
