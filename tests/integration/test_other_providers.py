"""A group's agent on an Anthropic-compatible provider: here a second gateway, which speaks it."""

import json
from pathlib import Path

from rig import rig, running, write_config

from runner.demo.provider import DemoProvider
from runner.model import folder_of
from runner.settings.layout import Layout

KEY = "gw-second-key"
CONFIG = """
default_model = "claude"
default_thinking = true

[models.claude]
provider = "relay"
model = "kimi-code"
max_context_size = 200000

[providers.relay]
type = "anthropic"
base_url = "{url}"
api_key = "{key}"

[host]
trigger = ""

[sandbox]
backend = "process"
"""


async def test_tools_and_memory_work_over_an_anthropic_provider(tmp_path: Path) -> None:
    more = f'[gateway]\nkeys = ["{KEY}"]'
    async with rig(tmp_path / "provider", more=more) as provider:
        layout = Layout(tmp_path / "data")
        async with DemoProvider() as unused:
            write_config(layout, unused)
            layout.config.write_text(CONFIG.format(url=provider.url, key=KEY))
            async with running(layout, unused) as r:
                events = await r.say("birds", "write 'x' to a.txt and read it back")
                assert events[-1].kind == "turn.finished", events[-1].data
                assert events[-1].data["text"] == "a.txt says: x"
                assert [e.kind for e in events].count("tool.finished") == 2
                assert events[-1].data["usage"]["output_tokens"] > 0
                workspace = r.layout.workspace(folder_of("birds"))
                assert (workspace / "a.txt").read_text() == "x"
                await r.ask("birds", "remember the word heron")
                await r.host.stop_sandbox("birds")
                assert await r.ask("birds", "which word?") == "The word was heron."
        asked = provider.provider.chats()
        assert all(c.status == 200 for c in asked)
        assert "heron" in json.dumps(asked[-1].json["messages"])
