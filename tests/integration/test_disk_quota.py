"""A group that has more on the disk than it may: no more turns until somebody made room."""

import asyncio
from pathlib import Path

from rig import Rig, rig

from runner.model import folder_of

FULL = folder_of("full")


async def counted(r: Rig, *, at_least: int) -> None:
    """Wait until the host has counted the group's files."""
    async with asyncio.timeout(30):
        while (found := r.host._disk._last.get("full")) is None or found.used < at_least:
            await asyncio.sleep(0.02)


async def test_far_beyond_its_quota_a_group_has_no_turn_until_files_are_gone(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, more='[groups.full]\nlimits = { disk = "2m" }') as r:
        assert await r.ask("full", "!say before") == "before"
        big = r.layout.workspace(FULL) / "big"
        big.write_bytes(b"x" * (5 << 20))
        await counted(r, at_least=5 << 20)
        last = (await r.say("full", "!say more"))[-1]
        assert (last.kind, last.data["code"]) == ("turn.failed", "disk_quota")
        assert "'full' take 5." in last.data["message"]
        assert await r.ask("birds", "!say fine") == "fine"
        big.unlink()
        assert await r.ask("full", "!say after") == "after"


async def test_over_its_quota_a_group_may_have_its_agent_clean_up(tmp_path: Path) -> None:
    async with rig(tmp_path, more='[groups.full]\nlimits = { disk = "4m" }') as r:
        assert await r.ask("full", "!say before") == "before"
        (r.layout.workspace(FULL) / "big").write_bytes(b"x" * (6 << 20))
        await counted(r, at_least=6 << 20)
        async with asyncio.timeout(30):
            while "full" in r.host.pool.groups():  # its sandbox is ended, also without a turn
                await asyncio.sleep(0.02)
        clean = '!call bash {"command": "sleep 3; rm big; ls | wc -l"}\n!say {last}'
        assert "0" in await r.ask("full", clean)
