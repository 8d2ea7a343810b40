"""The tools of the host as agents use them: real sandboxes, real sockets, a real store."""

import json
from pathlib import Path
from typing import Any

from rig import rig


def call(name: str, **arguments: Any) -> str:
    return f"!call {name} {json.dumps(arguments)}"


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [e["kind"] for e in events]


async def test_a_message_in_mid_turn_is_an_event_before_the_answer(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        events = await r.say("birds", f"{call('send_message', text='half done')}\n!say all done")
        (sent,) = [e for e in events if e.kind == "message.sent"]
        turn = events[-1].data["turn_id"]
        assert sent.data == {"turn_id": turn, "delivery_id": None, "text": "half done"}
        assert events[-1].data["text"] == "all done"
        assert kinds(await r.events("birds")).count("message.sent") == 1


async def test_the_model_is_told_of_host_tools_behind_the_built_in_ones(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.ask("birds", "!say one")
        await r.ask("birds", "!say two")
        first, second = r.provider.chats()
        names = [t["function"]["name"] for t in first.json["tools"]]
        assert names[:2] == ["bash", "read"]
        assert names.index("send_message") > names.index("grep")
        assert "register_group" not in names  # this group is not an admin's
        assert json.dumps(first.json["tools"]) == json.dumps(second.json["tools"])
