"""``nanokimi groups set`` as a person types it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from rig import rig, write_config

from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout
from runner.settings.load import load_settings


async def groups_set(layout: Layout, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runner", "--data", str(layout.root), "groups", "set", *arguments,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_groups_setting_is_written_where_the_operator_keeps_the_file(
    tmp_path: Path,
) -> None:
    layout = Layout(tmp_path / "data")
    async with DemoProvider() as provider:
        write_config(layout, provider, more="# the last line")
    real = tmp_path / "kept" / "config.toml"
    real.parent.mkdir()
    layout.config.rename(real)
    layout.config.symlink_to(real)
    real.chmod(0o640)
    code, out, err = await groups_set(layout, "team@x", "trigger=@bot", "limits.memory=2g")
    assert code == 0, err
    assert "wrote" in out
    assert "there is no group 'team@x' yet: this takes effect when it appears" in err
    assert not layout.database.exists()
    assert layout.config.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert "# the last line" in real.read_text()
    assert load_settings(layout, {}).groups["team@x"].limits.memory == 2 << 30

    before = real.read_bytes()
    code, _, err = await groups_set(layout, "team@x", "admin=true", "model=nothing")
    assert code == 2
    assert "nothing" in err
    assert real.read_bytes() == before
    assert (await groups_set(layout, "team@x", "trigger=@bot"))[1] == "it is so already\n"
    assert (await groups_set(layout, "team@x"))[0] == 2


async def test_a_running_host_takes_a_groups_setting_up(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        assert r.host.trigger("team@x") == ""
        await r.host.put_group("team@x")
        code, _, err = await groups_set(r.layout, "team@x", "trigger=@bot")
        assert code == 0, err
        assert "there is no group" not in err
        async with asyncio.timeout(20):
            while r.host.trigger("team@x") != "@bot":
                await asyncio.sleep(0.05)
