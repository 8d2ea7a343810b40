"""entrypoint.sh, run for real with a stand-in for Python."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[3] / "entrypoint.sh"
TOKEN = "very-secret-token"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    kimi = tmp_path / "home" / ".kimi"
    (kimi / "credentials").mkdir(parents=True)
    (kimi / "config.toml").write_text('# host\ndefault_model = "kimi-code"\n[models.x]\na = 1\n')
    (kimi / "credentials" / "kimi-code.json").write_text(f'{{"access_token": "{TOKEN}"}}')
    return tmp_path / "home"


def run(home: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    programs = home.parent / "bin"
    programs.mkdir(exist_ok=True)
    stand_in = programs / "python3"
    stand_in.write_text('#!/bin/sh\necho "args $*"\necho "parent $PPID pid $$"\nenv\n')
    stand_in.chmod(0o755)
    return subprocess.run(
        [str(ENTRYPOINT)],
        env={"HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin", **env},
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_it_says_what_it_found_and_becomes_the_agent(home: Path):
    done = run(home)
    assert done.returncode == 0
    assert done.stderr == (
        '[entrypoint] config loaded: default model "kimi-code", credential file kimi-code.json\n'
    )
    assert done.stdout.startswith("args -P -m runner.agent\n")
    assert f"parent {os.getpid()} " in done.stdout  # exec: no shell in between


def test_the_token_reaches_neither_environment_nor_log(home: Path):
    done = run(home, MOONSHOT_API_KEY="sk-1", OPENAI_API_KEY="sk-2", KIMI_API_KEY="sk-3")
    assert TOKEN not in done.stdout + done.stderr
    assert "sk-" not in done.stdout
    assert "API_KEY" not in done.stdout


def test_no_credential_file_is_said_and_the_agent_still_starts(home: Path):
    (home / ".kimi" / "credentials" / "kimi-code.json").unlink()
    done = run(home)
    assert done.returncode == 0
    assert "no credential file" in done.stderr


def test_a_missing_config_is_a_protocol_error_and_a_code(home: Path):
    (home / ".kimi" / "config.toml").unlink()
    done = run(home)
    assert done.returncode == 2
    (line,) = done.stdout.splitlines()
    answer = json.loads(line)
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", None)
    assert answer["error"]["data"]["code"] == "config_invalid"
    assert "config.toml is missing" in done.stderr
    assert "hint:" in done.stderr


def test_a_config_that_is_a_broken_link_counts_as_missing(home: Path):
    config = home / ".kimi" / "config.toml"
    config.unlink()
    config.symlink_to("config/config.toml")
    assert run(home).returncode == 2


def test_a_config_without_a_last_newline_or_a_model_is_fine(home: Path):
    (home / ".kimi" / "config.toml").write_text('default_model = "m"')
    assert 'default model "m"' in run(home).stderr
    (home / ".kimi" / "config.toml").write_text('[models.x]\ndefault_model = "not this"\n')
    assert "default model none" in run(home).stderr
