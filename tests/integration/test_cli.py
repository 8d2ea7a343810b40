"""The commands as a person types them: real processes, the demo provider, process sandboxes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from rig import log_in, write_config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runner.api.serving import serving
from runner.demo.faults import Fault
from runner.demo.provider import DemoProvider
from runner.host.lock import host_lock
from runner.model import folder_of
from runner.sandbox.agentlog import AgentLog
from runner.settings.layout import Layout
from runner.store import Store

DEADLINE = 60


class Shell:
    """Runs ``nanokimi`` on one data directory."""

    def __init__(self, layout: Layout, provider: DemoProvider) -> None:
        self.layout = layout
        self.provider = provider
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("NANOKIMI_", "KIMI_"))}

    async def start(self, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "runner",
            "--data",
            str(self.layout.root),
            *arguments,
            stdin=options.get("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
        )

    async def run(self, *arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        given = subprocess.PIPE if stdin is not None else subprocess.DEVNULL
        process = await self.start(*arguments, stdin=given)
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate(stdin)
        assert b"Traceback" not in err, err.decode()
        return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with DemoProvider() as provider:
        layout = Layout(tmp_path / "data")
        write_config(layout, provider)
        log_in(layout, provider)
        yield Shell(layout, provider)


async def serve(shell: Shell) -> tuple[asyncio.subprocess.Process, str]:
    """A serving host and its URL."""
    config = shell.layout.config
    config.write_text(config.read_text() + '\n[server]\nlisten = "127.0.0.1:0"\n')
    process = await shell.start("serve")
    async with asyncio.timeout(DEADLINE):
        while not (told := _told(shell)):
            assert process.returncode is None, await process.communicate()
            await asyncio.sleep(0.05)
    return process, told


def _told(shell: Shell) -> str:
    try:
        return str(json.loads(shell.layout.host_lock.read_text())["url"])
    except (OSError, ValueError, KeyError):
        return ""


async def read_until(stream: asyncio.StreamReader | None, word: bytes) -> bytes:
    assert stream is not None
    seen = b""
    async with asyncio.timeout(DEADLINE):
        while word not in seen:
            data = await stream.read(1000)
            assert data, seen
            seen += data
    return seen


async def test_init_writes_once_and_never_overwrites(tmp_path: Path, shell: Shell) -> None:
    shell.layout = Layout(tmp_path / "new")
    code, out, _ = await shell.run("init")
    assert (code, out.strip()) == (0, f"wrote {shell.layout.config}")
    assert shell.layout.api_token.stat().st_mode & 0o777 == 0o600
    shell.layout.config.write_text("mine")
    code, _, err = await shell.run("init")
    assert code == 0
    assert "left as it is" in err
    assert shell.layout.config.read_text() == "mine"


async def test_chat_prints_the_answer_alone_on_stdout(shell: Shell) -> None:
    code, out, err = await shell.run("chat", "birds", "-m", "write 'x' to a.txt and read it back")
    assert (code, out) == (0, "a.txt says: x\n")
    assert "write: a.txt" in err


async def test_chat_prints_what_a_chat_command_answers(shell: Shell) -> None:
    code, out, _ = await shell.run("chat", "birds", "-m", "/help")
    assert code == 0
    assert "/status" in out
    assert out.count("/status") == 1


async def test_chat_remembers_from_one_process_to_the_next(shell: Shell) -> None:
    await shell.run("chat", "-m", "remember the word heron")
    assert (await shell.run("chat", "-m", "which word?"))[1] == "The word was heron.\n"


async def test_chat_reads_a_message_from_a_pipe(shell: Shell) -> None:
    code, out, _ = await shell.run("chat", stdin=b"!say from a pipe\n")
    assert (code, out) == (0, "from a pipe\n")


async def test_chat_takes_files_along_and_says_what_comes_back(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "a b.txt").write_text("first")
    (tmp_path / "c.txt").write_text("second")
    text = (
        '!call bash {"command": "cat attachments/*/a?b.txt attachments/*/c.txt > both"}\n'
        '!call send_file {"path": "both"}\n!call bash {"command": "cat both"}\n!say {last}'
    )
    code, out, err = await shell.run(
        "chat", "-m", text, "--attach", str(tmp_path / "a b.txt"), "--attach", f"{tmp_path}/c.txt"
    )
    assert code == 0
    assert "firstsecond" in out
    assert "both (11 bytes): /api/groups/terminal/files/file_" in err


async def test_a_file_to_attach_has_to_be_there(shell: Shell, tmp_path: Path) -> None:
    code, _, err = await shell.run("chat", "-m", "hi", "--attach", str(tmp_path / "none"))
    assert code == 2
    assert "does not exist" in " ".join(err.split())


async def test_chat_as_json_is_one_event_a_line(shell: Shell) -> None:
    code, out, _ = await shell.run("chat", "-m", "!say hi", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert events[0]["event"] == "message.accepted"
    assert (events[-1]["event"], events[-1]["text"]) == ("turn.finished", "hi")


async def test_a_text_that_looks_like_an_option_is_a_text(shell: Shell) -> None:
    _, out, _ = await shell.run("chat", "-m", "!say --data")
    assert out == "--data\n"


async def test_ctrl_c_cancels_the_turn(shell: Shell) -> None:
    process = await shell.start("chat", "-m", '!call bash {"command": "sleep 60"}')
    await read_until(process.stderr, b"bash")
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(DEADLINE):
        _, err = await process.communicate()
    assert process.returncode == 130
    assert b"cancelled" in err
    assert b"Traceback" not in err


async def test_a_second_ctrl_c_leaves(shell: Shell) -> None:
    shell.provider.faults.add(Fault(stall_after=3))
    process, _url = await serve(shell)
    chat = await shell.start("chat", "-m", "!slow 5\n!say one two three four five")
    while not shell.provider.chats():
        await asyncio.sleep(0.05)
    chat.send_signal(signal.SIGINT)
    await read_until(chat.stderr, b"cancelling")
    chat.send_signal(signal.SIGINT)
    async with asyncio.timeout(DEADLINE):
        await chat.communicate()
    assert chat.returncode == 130
    process.terminate()
    async with asyncio.timeout(DEADLINE):
        await process.communicate()


async def test_chat_uses_the_host_that_serves(shell: Shell) -> None:
    process, url = await serve(shell)
    try:
        assert (await shell.run("chat", "birds", "-m", "!say hi"))[1] == "hi\n"
        code, out, _ = await shell.run("groups", "list", "--json")
        assert (code, [g["group"] for g in json.loads(out)]) == (0, ["birds"])
        assert json.loads(out)[0]["sandbox"] == "idle"
        code, out, _ = await shell.run("groups", "show", "birds")
        assert "answered" in out
        assert "last answer" in out
        assert out.rstrip().endswith("hi")
        assert "held" not in out
        assert (await shell.run("groups", "stop", "birds"))[1] == "stopped\n"
        assert (await shell.run("groups", "stop", "birds"))[1] == "it had no sandbox\n"
        assert (await shell.run("groups", "reset", "birds"))[0] == 0
        code, _, err = await shell.run("serve")
        assert code != 0
        assert f"pid {process.pid}" in err
        assert (await shell.run("groups", "rm", "birds", "--yes"))[0] == 0
        code, _, err = await shell.run("groups", "show", "birds")
        assert code == 1
        assert "error: there is no group 'birds'" in err
        assert url.startswith("http://127.0.0.1:")
    finally:
        process.terminate()
        await process.communicate()


async def test_sigterm_lets_a_turn_end_and_leaves_no_sandbox(shell: Shell) -> None:
    process, _ = await serve(shell)
    chat = await shell.start("chat", "birds", "-m", "!slow 0.4\n!say one two three")
    await read_until(chat.stdout, b"one")
    process.terminate()
    async with asyncio.timeout(DEADLINE):
        out, _ = await chat.communicate()
        _, err = await process.communicate()
    assert out.endswith(b"three\n")
    assert process.returncode == 0, err.decode()
    assert b"Traceback" not in err
    mine = ["pgrep", "-f", str(shell.layout.run)]
    left = subprocess.run(mine, capture_output=True, text=True, check=False)
    assert left.stdout == ""


async def test_a_second_signal_stops_at_once_and_the_next_host_goes_on(shell: Shell) -> None:
    process, _ = await serve(shell)
    script = json.dumps({"command": "echo x >> effects; sleep 2"})
    chat = await shell.start("chat", "birds", "-m", f"!call bash {script}\n!say whole")
    effects = shell.layout.workspace(folder_of("birds")) / "effects"
    async with asyncio.timeout(DEADLINE):
        while not effects.exists():
            await asyncio.sleep(0.02)
    process.terminate()
    await read_until(process.stderr, b"draining")
    process.terminate()
    async with asyncio.timeout(DEADLINE):
        await process.communicate()
        await chat.communicate()
    assert process.returncode == 1
    process = await shell.start("serve")
    try:
        async with asyncio.timeout(DEADLINE):
            while "answered" not in (await shell.run("groups", "show", "birds", "--json"))[1]:
                await asyncio.sleep(0.1)
    finally:
        process.terminate()
        await process.communicate()
    assert effects.read_text() == "x\n"


async def test_login_shows_a_code_and_keeps_a_private_token(tmp_path: Path) -> None:
    async with DemoProvider(auto_approve=False, poll_interval=0.1) as provider:
        layout = Layout(tmp_path / "data")
        write_config(layout, provider)
        shell = Shell(layout, provider)
        code, _, err = await shell.run("chat", "-m", "hello")
        assert code == 3
        assert "nanokimi login" in err
        process = await shell.start("login")
        async with asyncio.timeout(DEADLINE):
            while not provider.waiting_codes:
                await asyncio.sleep(0.05)
        shown = await read_until(process.stderr, provider.waiting_codes[0].encode())
        assert b"http://" in shown
        provider.approve(provider.waiting_codes[0])
        async with asyncio.timeout(DEADLINE):
            out, _ = await process.communicate()
        assert process.returncode == 0
        assert out.startswith(b"logged in to demo")
        path = layout.credentials / "kimi-code.json"
        assert path.stat().st_mode & 0o777 == 0o600
        code, out_text, err = await shell.run("auth", "status", "--json")
        (row,) = json.loads(out_text)
        assert (code, row["state"], row["scope"]) == (0, "ok", "kimi-code")
        tokens = json.loads(path.read_text())
        assert tokens["access_token"] not in out_text + err
        assert (await shell.run("chat", "-m", "!say hi"))[1] == "hi\n"
        assert (await shell.run("logout"))[0] == 0
        assert (await shell.run("auth", "status"))[0] == 3


async def test_chat_says_what_a_kept_message_waits_for(shell: Shell) -> None:
    shell.provider.faults.add(Fault(status=503, message="down for maintenance"), times=500)
    config = shell.layout.config
    config.write_text(config.read_text().replace("[host]", "[host]\nmax_attempts = 1"))
    process, _ = await serve(shell)
    try:
        for _ in range(2):  # the message that is held, and one that comes when it is
            code, out, err = await shell.run("chat", "birds", "-m", "hello")
            assert (code, out) == (1, "")
            assert "provider_unavailable" in err
            assert "answered when the model answers again" in err
            assert "login" not in err
    finally:
        process.terminate()
        await process.communicate()


async def test_a_host_of_another_version_is_named_as_what_it_is(shell: Shell) -> None:
    async def older(request: Request) -> Response:
        if request.url.path == "/api/groups":
            return JSONResponse({"groups": [{"group": "birds"}]})
        error = {"code": "http_error", "message": "Not Found", "hint": ""}
        return JSONResponse({"error": error}, 404)

    app = Starlette(routes=[Route("/{path:path}", older, methods=["GET", "POST"])])
    with host_lock(shell.layout.host_lock) as lock:
        async with serving(app, "127.0.0.1", 0) as url:
            lock.announce(url)
            for arguments in (["groups", "list"], ["groups", "retry", "birds"]):
                code, out, err = await shell.run(*arguments)
                assert (code, out) == (1, "")
                assert "the host that serves is of another version" in err
                assert "restart it" in err
                assert "pydantic" not in err


async def test_serve_says_at_once_that_a_login_is_missing(shell: Shell) -> None:
    config = shell.layout.config
    config.write_text(
        config.read_text() + '\n[groups.birds]\nmodel = "other"\n[models.other]\n'
        'provider = "other"\nmodel = "k3-256k"\nmax_context_size = 262144\n'
        '[providers.other]\ntype = "openai_legacy"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'api_key = "env:NO_SUCH_KEY"\n'
    )
    (shell.layout.credentials / "kimi-code.json").unlink()
    process, _ = await serve(shell)
    process.terminate()
    _, err = await process.communicate()
    lines = [line for line in err.decode().splitlines() if "host.no_login" in line]
    assert len(lines) == 2, err.decode()
    assert "nanokimi login" in "".join(lines)
    assert "provider=other" in "".join(lines)
    assert "NO_SUCH_KEY" in "".join(lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["groups", "members", "birds", "--set", "tg:42=king"],
            'error: --set tg:42=king: "king" is',
        ),
        (["groups", "members", "birds", "--set", "tg:42=king"], "roles are owner, admin, member"),
        (["groups", "retry", "birds", "turn_x"], "`nanokimi groups show birds` lists"),
        (["--log-level", "loud", "groups", "list"], "'NANOKIMI_LOG_LEVEL'): 'loud' is not one of"),
    ],
)
async def test_a_wrong_word_is_answered_with_the_right_ones(
    shell: Shell, arguments: list[str], said: str
) -> None:
    store = await Store.open(shell.layout.database)
    await store.put_group("birds")
    await store.close()
    _, _, err = await shell.run(*arguments)
    assert said in err


async def test_no_summary_of_the_groups_commands_is_cut(shell: Shell) -> None:
    _, out, _ = await shell.run("groups", "--help")
    assert "..." not in out.partition("Commands:")[2]


async def test_doctor_checks_everything_and_says_the_fix(shell: Shell) -> None:
    code, out, err = await shell.run("doctor", "--json")
    checks = {c["name"]: c for c in json.loads(out)}
    assert code == 0, out + err
    for name in ("config", "disk", "login", "model", "mount config_ro", "mount workspace_rw"):
        assert checks[name]["grade"] in ("pass", "warn"), checks[name]
    (shell.layout.credentials / "kimi-code.json").unlink()
    code, out, _ = await shell.run("doctor")
    assert code == 1
    assert "nanokimi login" in out
    assert "fail" in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: "", "default_model"),
        (lambda c: c + "\n[hsot]\n", "host"),
        (lambda c: "x = [", "config.toml"),
    ],
)
async def test_a_wrong_config_is_two_lines_and_exit_code_2(
    shell: Shell, change: Callable[[str], str], words: str
) -> None:
    shell.layout.config.write_text(change(shell.layout.config.read_text()))
    code, out, err = await shell.run("chat", "-m", "hello")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "\nhint: " in err
    assert words in err


@pytest.mark.docker
async def test_a_missing_image_is_exit_code_4_and_names_build(
    docker_engine: str, shell: Shell
) -> None:
    del docker_engine
    config = shell.layout.config.read_text().replace("nanokimi-agent", "no-such-image")
    shell.layout.config.write_text(config.replace('"process"', '"docker"'))
    code, out, err = await shell.run("chat", "-m", "hello")
    assert (code, out) == (4, "")
    assert "nanokimi build" in err


async def test_no_engine_is_exit_code_4_with_the_fix(shell: Shell) -> None:
    config = shell.layout.config
    config.write_text(config.read_text().replace('"process"', '"docker"'))
    shell.env["DOCKER_HOST"] = "unix:///nowhere/docker.sock"
    code, _, err = await shell.run("chat", "-m", "hello")
    assert code == 4
    assert "hint: " in err


async def test_a_missing_config_names_init(tmp_path: Path, shell: Shell) -> None:
    shell.layout = Layout(tmp_path / "nothing")
    code, _, err = await shell.run("chat", "-m", "hello")
    assert code == 2
    assert "nanokimi init" in err


@pytest.mark.parametrize(
    "arguments", [["chat", "-m", " "], ["chat", "--bogus"], ["bogus"], ["login", "nobody"]]
)
async def test_wrong_use_is_an_error_with_a_hint(shell: Shell, arguments: list[str]) -> None:
    code, _, err = await shell.run(*arguments)
    assert code in (1, 2)
    assert err.startswith("error: ")
    assert "hint: " in err


async def test_logs_show_what_the_agent_said_on_stderr(shell: Shell) -> None:
    code, _, err = await shell.run("logs", "birds")
    assert code == 1
    assert "there is no log" in err
    await shell.run("chat", "birds", "-m", "!say hi")
    log = AgentLog(shell.layout.agent_log(folder_of("birds")), now=lambda: 1795172545.123)
    log.write(b"a line of the agent\n")
    log.close()
    shell.env["TZ"] = "CET-1"
    code, out, _ = await shell.run("logs", "birds")
    assert code == 0
    assert out.endswith("2026-11-20 12:02:25 a line of the agent\n")
    _, out, _ = await shell.run("logs", "birds", "--json")
    assert json.loads(out.splitlines()[-1]) == {
        "time": "2026-11-20T11:02:25.123Z",
        "text": "a line of the agent",
    }


async def test_a_command_says_a_warning_once(shell: Shell) -> None:
    config = shell.layout.config
    text = (
        config.read_text() + '\n[services.moonshot_fetch]\nbase_url = "http://x"\napi_key = "k"\n'
    )
    config.write_text(text)
    for words in (("monitor", "providers"), ("auth", "status"), ("doctor",)):
        code, _, err = await shell.run(*words)
        assert (code, err.count("moonshot_fetch is set")) == (0, 1), words


async def test_following_a_log_goes_on_until_ctrl_c(shell: Shell) -> None:
    path = shell.layout.agent_log(folder_of("birds"))
    path.parent.mkdir()
    log = AgentLog(path)
    log.write(b"the first line\n")
    process = await shell.start("logs", "birds", "-f")
    await read_until(process.stdout, b"the first line\n")
    log.write(b"the second line\n")
    await read_until(process.stdout, b"the second line\n")
    log.close()
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(DEADLINE):
        _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")


async def test_a_reader_that_has_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runner", "--help"), stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    async with asyncio.timeout(DEADLINE):
        _, err = await process.communicate()
    assert (process.returncode, err) == (1, b"")


async def test_debug_in_the_environment_is_the_debug_level(shell: Shell) -> None:
    shell.env["DEBUG"] = "true"
    _, out, err = await shell.run("chat", "-m", "!say hi")
    assert out == "hi\n"
    assert "sandbox.ready" in err
