"""``nanokimi import picoclaw`` as a person types it."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.settings.layout import Layout
from runner.settings.load import load_settings

CONFIG: dict[str, Any] = {
    "agents": {"defaults": {"model": {"primary": "kimi-code", "fallbacks": ["gpt4-backup"]}}},
    "model_list": [
        {"model_name": "kimi-code", "model": "kimi-code/kimi-coding", "api_key": "sk-kimi-secret"},
        {"model_name": "gpt4-backup", "model": "openai/gpt-4o", "api_key": "sk-openai-secret"},
    ],
    "tools": {"web": {"duckduckgo": {"enabled": True, "max_results": 4}}, "cron": {}},
}


async def nanokimi(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runner", *arguments,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


async def test_an_old_config_becomes_one_that_loads_with_its_keys_in_private_files(
    tmp_path: Path, old: Path
) -> None:
    layout = Layout(tmp_path / "data")
    code, out, err = await nanokimi("import", "picoclaw", str(old), "--data", str(layout.root))
    assert code == 0, err
    assert f"wrote {layout.config}" in out
    assert "tools.cron" in err  # what has no counterpart is said
    settings = load_settings(layout, {})
    assert settings.default_model == "kimi-code"
    assert settings.tools.web_search.max_results == 4
    assert [e.model_name for e in settings.model_list] == ["kimi-code", "gpt4-backup"]
    assert settings.model_list[0].fallbacks == ("gpt4-backup",)
    assert settings.model_list[0].api_key.reveal() == "sk-kimi-secret"
    assert "secret" not in layout.config.read_text() + out + err
    for path in layout.credentials.glob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_a_config_that_is_there_is_never_overwritten(tmp_path: Path, old: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.root.mkdir()
    layout.config.write_text("mine")
    code, _, err = await nanokimi("import", "picoclaw", str(old), "--data", str(layout.root))
    assert code == 2
    assert "hint:" in err
    assert layout.config.read_text() == "mine"
    assert not layout.credentials.exists()


async def test_print_shows_the_text_without_keys_and_writes_nothing(
    tmp_path: Path, old: Path
) -> None:
    data = tmp_path / "data"
    code, out, _ = await nanokimi("import", "picoclaw", str(old), "--print", "--data", str(data))
    assert code == 0
    assert 'default_model = "kimi-code"' in out
    assert "secret" not in out
    assert not data.exists()


@pytest.mark.parametrize("text", [None, "not JSON"])
async def test_a_file_that_is_no_config_is_two_lines_and_exit_code_2(
    tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    code, out, err = await nanokimi("import", "picoclaw", str(path), "--data", str(tmp_path / "d"))
    assert (code, out) == (2, "")
    assert err.startswith("error:")
    assert "hint:" in err
    assert not (tmp_path / "d").exists()
