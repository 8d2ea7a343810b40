"""``login``, ``login --import`` and ``auth status`` as a person types them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rig import log_in, write_config

from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout

DEADLINE = 60


class Shell:
    """Runs ``nanokimi`` on one data directory."""

    def __init__(self, layout: Layout, provider: DemoProvider) -> None:
        self.layout = layout
        self.provider = provider
        self.path = layout.credentials / "kimi-code.json"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("NANOKIMI_", "KIMI_"))}

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "runner", "--data", str(self.layout.root), *arguments]
        pipe = subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *command, stdout=pipe, stderr=pipe, env=self.env
        )

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = await self.start(*arguments)
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()
        return process.returncode or 0, out.decode(), err.decode()

    async def checks(self) -> dict[str, dict[str, str]]:
        """What doctor says, by the name of the check."""
        _, out, _ = await self.run("doctor", "--json")
        return {c["name"]: c for c in json.loads(out)}


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with DemoProvider(auto_approve=False, poll_interval=0.1) as provider:
        layout = Layout(tmp_path / "data")
        write_config(layout, provider)
        yield Shell(layout, provider)


def token_file(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "kimi-code.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(0o644)
    return path


# -- import -------------------------------------------------------------------------------------


async def test_a_login_of_kimi_is_taken_over_and_its_file_left_alone(
    tmp_path: Path, shell: Shell
) -> None:
    login = shell.provider.issue_login()
    given = token_file(tmp_path, login)
    code, out, err = await shell.run("login", "--import", str(given))
    assert (code, out) == (0, f"logged in to demo with {given}\n")
    assert "scope kimi-code, good for 15 min and renewed by itself" in err
    assert json.loads(given.read_text()) == login
    assert given.stat().st_mode & 0o777 == 0o644
    assert shell.path.stat().st_mode & 0o777 == 0o600
    for token in (login["access_token"], login["refresh_token"]):
        assert token in shell.path.read_text()
        assert token not in out + err
    assert (await shell.run("chat", "-m", "!say hi"))[1] == "hi\n"


async def test_an_expired_login_that_can_be_renewed_is_taken_over(
    tmp_path: Path, shell: Shell
) -> None:
    given = token_file(tmp_path, shell.provider.issue_login() | {"expires_at": 1.0})
    assert (await shell.run("login", "--import", str(given)))[0] == 0
    assert (await shell.run("chat", "-m", "!say hi"))[1] == "hi\n"
    assert shell.provider.refreshes == 1


GOOD = {"access_token": "a" * 40, "refresh_token": "secret" * 8, "expires_at": 4e9}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a usable login"),
        ({k: v for k, v in GOOD.items() if k != "refresh_token"}, "refresh_token"),
        (GOOD | {"access_token": "secret\nsecret"}, "access_token"),
        (GOOD | {"expires_at": "soon"}, "expires_at"),
        (GOOD | {"refresh_token": "", "expires_at": 1.0}, "has expired and cannot be renewed"),
        (" " * 70_000, "larger than"),
    ],
)
async def test_a_file_that_is_no_login_is_refused_and_the_old_login_stays(
    tmp_path: Path, shell: Shell, content: Any, words: str
) -> None:
    log_in(shell.layout, shell.provider)
    before = shell.path.read_bytes()
    code, _, err = await shell.run("login", "--import", str(token_file(tmp_path, content)))
    assert code == 1
    assert words in err
    assert "hint: " in err
    assert "secret" not in err
    assert shell.path.read_bytes() == before


async def test_a_file_that_is_not_there_or_a_pipe_is_refused(tmp_path: Path, shell: Shell) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        code, _, err = await shell.run("login", "--import", str(tmp_path / name))
        assert (code, "hint: " in err) == (1, True)


# -- Ctrl-C -------------------------------------------------------------------------------------


async def test_ctrl_c_gives_a_login_up_and_writes_nothing(shell: Shell) -> None:
    process = await shell.start("login")
    async with asyncio.timeout(DEADLINE):
        while not any(r.path == "/api/oauth/token" for r in shell.provider.requests):
            assert process.returncode is None, await process.communicate()
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert not shell.path.exists()


# -- status -------------------------------------------------------------------------------------


async def test_status_says_the_last_refresh_and_the_last_failure(shell: Shell) -> None:
    log_in(shell.layout, shell.provider, lifetime=2.0)
    assert (await shell.run("chat", "-m", "!say hi"))[1] == "hi\n"  # renewed by this
    code, out, _ = await shell.run("auth", "status")
    assert code == 0
    assert "s ago" in out
    login = json.loads(shell.path.read_text())
    shell.path.write_text(json.dumps(login | {"expires_at": time.time() - 1}))
    shell.provider.faults.add(Fault("token", status=503), times=4)
    await shell.run("doctor")
    code, out, err = await shell.run("auth", "status", "--json")
    (row,) = json.loads(out)
    assert (code, row["state"]) == (0, "expiring")
    assert row["last_refresh"] > time.time() - 600
    assert "HTTP 503" in row["last_failure"]
    assert "HTTP 503" in (await shell.run("auth", "status"))[1]
    for token in (login["access_token"], login["refresh_token"]):
        assert token not in out + err


async def test_status_of_a_lost_a_broken_and_no_login_is_exit_code_3(shell: Shell) -> None:
    assert (await shell.run("auth", "status"))[0] == 3
    log_in(shell.layout, shell.provider, lifetime=1.0)
    shell.provider.revoke_logins()
    assert (await shell.run("chat", "-m", "hello"))[0] != 0
    code, out, err = await shell.run("auth", "status")
    assert (code, "lost" in out, "nanokimi login" in err) == (3, True, True)
    shell.path.write_text("{")
    code, out, _ = await shell.run("auth", "status", "--json")
    (row,) = json.loads(out)
    assert (code, row["state"]) == (3, "broken")
    assert "kimi-code.json is not a usable login" in row["last_failure"]


# -- doctor -------------------------------------------------------------------------------------


async def test_doctor_looks_at_files_expiry_renewal_clock_and_fit(shell: Shell) -> None:
    log_in(shell.layout, shell.provider)
    shell.path.chmod(0o640)
    checks = await shell.checks()
    assert checks["login files"]["grade"] == "warn"
    assert checks["login files"]["fix"] == f"chmod 600 {shell.path}"
    for name in ("login", "login fits", "login expiry", "login refresh", "clock", "model"):
        assert checks[name]["grade"] == "pass", checks[name]
    shell.provider.revoke_logins()
    shell.path.write_text(json.dumps(json.loads(shell.path.read_text()) | {"expires_at": 1.0}))
    checks = await shell.checks()
    for name in ("login", "login expiry", "login refresh"):
        assert checks[name]["grade"] == "fail", checks[name]
        assert "nanokimi login" in checks[name]["fix"]
    assert checks["clock"]["grade"] == "pass"
    assert checks["login files"]["grade"] == "pass"
