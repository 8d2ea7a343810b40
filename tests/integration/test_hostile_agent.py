"""An agent that does its worst once it is trusted with a turn: only its own turn may suffer."""

import json
import sys
from pathlib import Path

import pytest
from rig import rig

from runner.model import folder_of

AGENT = """
import json, sys

def send(**frame):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **frame}) + "\\n")
    sys.stdout.flush()

def update(**fields):
    send(method="session/update", params={"sessionId": "s", "update": fields})

def say(text, **meta):
    update(sessionUpdate="agent_message_chunk", content={"type": "text", "text": text}, _meta=meta)

deep = 1
for _ in range(400):
    deep = [deep]

for line in sys.stdin:
    asked = json.loads(line)
    id_, method = asked.get("id"), asked.get("method")
    if method == "initialize":
        send(id=id_, result={"protocolVersion": 1, "agentCapabilities": {}})
    elif method == "session/new":
        send(id=id_, result={"sessionId": "s"})
    elif method == "session/prompt":
        WORST
        send(id=id_, result={"stopReason": "end_turn"})
"""

WORST = {
    "asks to be tried again in a very long time": (
        (
            'sys.stdout.write(\'{"jsonrpc":"2.0","id":%d,"error":{"code":-32603,"message":"x",'
            '"data":{"retryable":true,"retryAfter":1%s}}}\\n\' % (id_, "0" * 400)); '
            "sys.stdout.flush(); continue"
        ),
        "agent_error",
    ),
    "nests its errors": (
        'send(id=id_, error={"code": -32603, "message": "x", "data": {"a": deep}}); continue',
        "agent_error",
    ),
    "nests its tools' input": (
        'update(sessionUpdate="tool_call", toolCallId="t", title="x", rawInput=deep)',
        None,
    ),
    "begins its answer again and again": (
        (
            '[say("x" * 900_000, nanokimi={"step": 1}), '
            '*(say("y", nanokimi={"step": 2}) or say("", nanokimi={"reset": True}) '
            "for _ in range(200))]"
        ),
        "protocol_flood",
    ),
    "never stops talking": ('[say("x" * 1000) for _ in range(3000)]', "answer_too_long"),
    "sends another shape": ('send(method="session/update", params=[1])', "protocol_bad_frame"),
    "counts beyond all numbers": (
        'update(sessionUpdate="usage_update", used=10**30, size=1)',
        None,
    ),
}


@pytest.mark.parametrize("what", WORST)
async def test_the_worst_of_one_agent_hurts_nobody_else(tmp_path: Path, what: str) -> None:
    code_line, code = WORST[what]
    workspace = tmp_path / "data" / "groups" / folder_of("evil")
    workspace.mkdir(parents=True)
    (workspace / "agent.py").write_text(AGENT.replace("WORST", code_line))
    engine = json.dumps([sys.executable, "/workspace/agent.py"])
    async with rig(
        tmp_path, host="max_attempts = 1", more=f"[groups.evil]\nengine = {engine}"
    ) as r:
        last = (await r.say("evil", "hello"))[-1]
        if code is None:
            assert last.kind == "turn.finished"
        else:
            assert (last.kind, last.data["code"]) == ("turn.failed", code)
            assert last.data["message"]
        assert await r.ask("birds", "!say fine") == "fine"
        assert not r.host.died.is_set()
        assert (await r.host.readiness()).get("host") is None
