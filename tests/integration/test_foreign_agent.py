"""Any ACP agent can live in a sandbox: here one on the official SDK, driven by our host."""

import json
import sys
from pathlib import Path

from rig import rig

from runner.model import folder_of

AGENT = """
import asyncio
import acp
from acp import schema

class Echo(acp.Agent):
    def on_connect(self, conn):
        self.conn = conn

    async def initialize(self, protocol_version, client_capabilities=None, client_info=None, **_):
        return acp.InitializeResponse(
            protocol_version=acp.PROTOCOL_VERSION,
            agent_capabilities=schema.AgentCapabilities(load_session=CAN_LOAD),
        )

    async def new_session(self, cwd, mcp_servers=None, **_):
        return acp.NewSessionResponse(session_id="made-by-echo")

    async def load_session(self, cwd, session_id, mcp_servers=None, **_):
        self.loaded = session_id
        await self.conn.session_update(session_id, acp.update_agent_message_text("old words"))
        return None

    async def prompt(self, prompt, session_id, **_):
        text = prompt[0].text
        await self.conn.session_update(session_id, acp.update_agent_thought_text("hm"))
        await self.conn.session_update(
            session_id, acp.start_tool_call("t1", "look around", kind="read", status="pending")
        )
        answer = await self.conn.request_permission(
            session_id=session_id,
            tool_call=schema.ToolCallUpdate(tool_call_id="t1", title="look around"),
            options=[
                schema.PermissionOption(option_id="no", name="No", kind="reject_once"),
                schema.PermissionOption(option_id="yes", name="Yes", kind="allow_once"),
            ],
        )
        await self.conn.session_update(
            session_id,
            acp.update_tool_call(
                "t1",
                status="completed",
                content=[acp.tool_content(acp.text_block(answer.outcome.option_id))],
            ),
        )
        await self.conn.session_update(
            session_id, schema.SessionInfoUpdate(session_update="session_info_update", title="x")
        )
        for piece in ("loaded " + getattr(self, "loaded", "nothing") + "; got ", text):
            await self.conn.session_update(session_id, acp.update_agent_message_text(piece))
        return acp.PromptResponse(stop_reason="end_turn")

    async def cancel(self, session_id, **_):
        pass

asyncio.run(acp.run_agent(Echo()))
"""


def engine(workspace: Path, can_load: bool) -> str:
    """The config that gives the group this agent; its script lies in the group's workspace."""
    workspace.mkdir(parents=True)
    script = workspace / "echo_agent.py"
    script.write_text(AGENT.replace("CAN_LOAD", str(can_load)))
    command = [sys.executable, "/workspace/echo_agent.py"]
    return f"[groups.birds]\nengine = {json.dumps(command)}"


async def test_the_host_drives_an_agent_of_the_official_sdk(tmp_path: Path) -> None:
    workspace = tmp_path / "data" / "groups" / folder_of("birds")
    async with rig(tmp_path, more=engine(workspace, can_load=True)) as r:
        events = await r.say("birds", "/yolo hello", sender="Bo <b>")
        kinds = [e.kind for e in events]
        assert kinds.index("thinking.delta") < kinds.index("tool.started")
        finished = next(e for e in events if e.kind == "tool.finished")
        assert (finished.data["output"], finished.data["failed"]) == ("yes", False)
        answer = events[-1].data["text"]
        assert answer.startswith("loaded nothing; got <message sender=")
        assert "/yolo hello" in answer
        assert "<b>" not in answer
        await r.host.stop_sandbox("birds")
        again = await r.ask("birds", "hello")
        assert again.startswith("loaded made-by-echo; got <message")
        assert "old words" not in again


CALLER = """
import asyncio
import acp
from acp import schema
from mcp import Client
from mcp.client.stdio import StdioServerParameters

class Caller(acp.Agent):
    def on_connect(self, conn):
        self.conn = conn

    async def initialize(self, protocol_version, client_capabilities=None, client_info=None, **_):
        return acp.InitializeResponse(
            protocol_version=acp.PROTOCOL_VERSION,
            agent_capabilities=schema.AgentCapabilities(load_session=True),
        )

    async def new_session(self, cwd, mcp_servers=None, **_):
        (server,) = mcp_servers
        self.server = StdioServerParameters(
            command=server.command, args=server.args, env={e.name: e.value for e in server.env}
        )
        return acp.NewSessionResponse(session_id="made-by-caller")

    async def load_session(self, cwd, session_id, mcp_servers=None, **_):
        await self.new_session(cwd, mcp_servers)

    async def prompt(self, prompt, session_id, **_):
        said = []
        for mode in ("legacy", "auto"):
            async with Client(self.server, mode=mode) as client:
                tools = [t.name for t in (await client.list_tools()).tools]
                told = await asyncio.gather(
                    *(client.call_tool("send_message", {"text": f"{mode} {n}"}) for n in range(6))
                )
                wrong = await client.call_tool("register_group", {"group": "x"})
                said.append(f"{tools[0]} {[t.content[0].text for t in told]} {wrong.is_error}")
        await self.conn.session_update(session_id, acp.update_agent_message_text("; ".join(said)))
        return acp.PromptResponse(stop_reason="end_turn")

    async def cancel(self, session_id, **_):
        pass

asyncio.run(acp.run_agent(Caller()))
"""


async def test_an_engine_that_is_not_ours_calls_the_hosts_tools(tmp_path: Path) -> None:
    workspace = tmp_path / "data" / "groups" / folder_of("birds")
    more = engine(workspace, can_load=True)
    (workspace / "echo_agent.py").write_text(CALLER)
    async with rig(tmp_path, more=more) as r:
        for _ in range(2):
            said = await r.ask("birds", "hello")
            each = f"send_message {['sent'] * 6} True"
            assert said == f"{each}; {each}"
            await r.host.stop_sandbox("birds")  # and then by session/load
        told = [e["text"] for e in await r.events("birds") if e["kind"] == "message.sent"]
        once = [f"{mode} {n}" for mode in ("legacy", "auto") for n in range(6)]
        assert sorted(told) == sorted(once * 2)


async def test_an_agent_that_cannot_load_begins_a_new_session(tmp_path: Path) -> None:
    workspace = tmp_path / "data" / "groups" / folder_of("birds")
    async with rig(tmp_path, more=engine(workspace, can_load=False)) as r:
        await r.ask("birds", "hello")
        await r.host.stop_sandbox("birds")
        assert (await r.ask("birds", "hello")).startswith("loaded nothing; got")
