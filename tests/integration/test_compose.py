"""compose.yaml as a user starts it: the orchestrator in a container, its agents beside it."""

import contextlib
import json
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from filelock import FileLock
from rig import log_in, write_config

from runner.api.client import group_path
from runner.demo.provider import DemoProvider
from runner.model import folder_of
from runner.sandbox.build import build_orchestrator
from runner.sandbox.context import orchestrator_files, source_files
from runner.sandbox.volumes import SANDBOX_UID
from runner.settings.layout import Layout

pytestmark = pytest.mark.timeout(900)  # the first one also builds two images

ROOT = Path(__file__).parents[2]
TEST_IMAGE = "nanokimi-test"
INSTALL_DEADLINE = 300.0
COMMAND_DEADLINE = 100.0
START_DEADLINE = 30.0
TURN_DEADLINE = 60.0
STRANGER = 12345  # a uid that nothing on the machine belongs to


@dataclass(frozen=True)
class Project:
    """A directory with compose.yaml and data, as a user has it after a clone."""

    directory: Path
    name: str
    environ: dict[str, str]
    provider: DemoProvider

    @property
    def layout(self) -> Layout:
        return Layout(self.directory / "data")

    @property
    def group(self) -> str:
        """A group id that no other test uses: its sandboxes can be told from theirs."""
        return f"birds of {self.name}"

    def compose(self, *line: str, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.name, *line],
            check=False,
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE,
        )
        assert may_fail or done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done

    def up(self) -> None:
        """``docker compose up -d``, until the API answers."""
        self.compose("up", "--detach")
        health = f"{self.url()}/health"
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(health, trust_env=False).status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(self.compose("logs").stdout)

    def nanokimi(self, *line: str) -> str:
        """``docker compose run --rm nanokimi …``: what it said, on both streams."""
        done = self.compose("run", "--rm", "--no-TTY", "nanokimi", *line)
        return done.stdout + done.stderr

    def configure(self, agent_image: str) -> None:
        write_config(self.layout, self.provider, backend="docker", image=agent_image)
        log_in(self.layout, self.provider)
        self.give_away()

    def give_away(self) -> None:
        """Make ``data`` belong to who the orchestrator runs as."""
        uid, _, gid = self.environ["NANOKIMI_USER"].partition(":")
        if os.geteuid() == 0:
            for path in (self.layout.root, *self.layout.root.rglob("*")):
                os.chown(path, int(uid), int(gid))

    def url(self) -> str:
        """Of the published port, which is a new one after each start."""
        address = self.compose("port", "nanokimi", "8420").stdout.strip()
        assert address.startswith("127.0.0.1:")
        return f"http://{address}"

    def api(self) -> httpx.Client:
        token = self.layout.api_token.read_text().strip()
        return httpx.Client(
            base_url=self.url(),
            headers={"authorization": f"Bearer {token}"},
            timeout=TURN_DEADLINE,
            trust_env=False,
        )

    def ask(self, text: str) -> str:
        with self.api() as api:
            posted = api.post(
                f"{group_path(self.group)}/messages",
                params={"wait": TURN_DEADLINE - 5},
                json={"text": text},
            )
        assert posted.status_code == 200, posted.text
        assert posted.json()["status"] == "done", posted.text
        return str(posted.json()["text"])

    def sandboxes(self) -> list[dict[str, Any]]:
        """Inspected containers of the group's agent, running or not."""
        refs = docker("ps", "-aq", "--filter", f"label=nanokimi.group_id={self.group}").split()
        found: list[dict[str, Any]] = json.loads(docker("inspect", *refs)) if refs else []
        return found


def docker(*line: str) -> str:
    return subprocess.check_output(["docker", *line], text=True, timeout=COMMAND_DEADLINE)


@pytest.fixture(scope="session")
def plugin(docker_engine: str) -> str:
    """A DOCKER_CONFIG with which ``docker compose`` works."""
    del docker_engine
    lock = Path(tempfile.gettempdir()) / f"nanokimi-test-compose-{os.getuid()}.lock"
    with FileLock(lock, timeout=INSTALL_DEADLINE):
        done = subprocess.run(
            [ROOT / ".ci" / "compose"],
            check=False,
            capture_output=True,
            text=True,
            timeout=INSTALL_DEADLINE,
        )
    if done.returncode != 0:
        problem = f"docker compose cannot be had: {done.stderr.strip()[-500:]}"
        if os.environ.get("NANOKIMI_REQUIRE_DOCKER") == "1":
            pytest.fail(problem, pytrace=False)
        pytest.skip(problem)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def engine_socket() -> Path:
    url = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    if url.scheme != "unix":
        pytest.skip("compose.yaml mounts the engine's Unix socket, and DOCKER_HOST names none")
    return Path(url.path)


@pytest.fixture(scope="session")
def orchestrator_image(agent_image: str) -> str:
    """Name of an image of this source tree; one worker builds it, the others wait for it."""
    del agent_image  # built first: both make the same base where there is none
    lock = Path(tempfile.gettempdir()) / f"nanokimi-test-orchestrator-{os.getuid()}.lock"
    with FileLock(lock, timeout=900):
        return build_orchestrator(tag=TEST_IMAGE).tag


@pytest.fixture
def provider(docker_engine: str) -> Iterator[DemoProvider]:
    """On an address of this machine that containers reach: the gateway of a network of our own."""
    del docker_engine
    network = f"nanokimi-test-{secrets.token_hex(4)}"
    docker("network", "create", network)
    try:
        shown = json.loads(docker("network", "inspect", network))
        made = DemoProvider(host=shown[0]["IPAM"]["Config"][0]["Gateway"])
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        docker("network", "rm", network)


@pytest.fixture
def user() -> str:
    """Who the orchestrator runs as; whoever runs the tests must be able to read its files."""
    return f"{os.geteuid()}:{os.getegid()}"


@pytest.fixture
def project(
    tmp_path: Path,
    user: str,
    plugin: str,
    engine_socket: Path,
    orchestrator_image: str,
    provider: DemoProvider,
) -> Iterator[Project]:
    environ = {
        **os.environ,
        "DOCKER_CONFIG": plugin,
        "DOCKER_GID": str(engine_socket.stat().st_gid),
        "DOCKER_SOCKET": str(engine_socket),
        "NANOKIMI_IMAGE": orchestrator_image,
        "NANOKIMI_PORT": "0",
        "NANOKIMI_USER": user,
    }
    made = Project(tmp_path, f"nanokimi-test-{secrets.token_hex(4)}", environ, provider)
    shutil.copy(ROOT / "compose.yaml", tmp_path)
    made.layout.root.mkdir()
    made.give_away()
    try:
        yield made
    finally:
        made.compose("down", "--timeout", "10", "--remove-orphans", may_fail=True)
        for sandbox in made.sandboxes():
            docker("rm", "-f", sandbox["Id"])


@pytest.mark.docker
@pytest.mark.slow
def test_a_sibling_container_answers_and_a_restarted_orchestrator_remembers(
    project: Project, agent_image: str
) -> None:
    project.configure(agent_image)
    project.compose("up", "--detach", "--wait")  # until its health check passes
    assert "the heron" in project.ask("write 'the heron' to notes.txt and read it back")

    [sandbox] = project.sandboxes()
    workspace = project.layout.workspace(folder_of(project.group))
    sources = {m["Destination"]: m["Source"] for m in sandbox["Mounts"]}
    assert sources["/workspace"] == str(workspace)
    assert sandbox["HostConfig"]["NetworkMode"] == "none"  # so the model came by its socket
    assert (workspace / "notes.txt").read_text() == "the heron"
    owner = os.geteuid() or SANDBOX_UID
    assert (workspace / "notes.txt").stat().st_uid == owner
    assert stat.S_IMODE(project.layout.api_token.stat().st_mode) == 0o600

    project.ask("remember the word heron")
    project.compose("stop")
    assert project.sandboxes() == []
    project.up()
    assert project.ask("which word did I tell you?") == "The word was heron."


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize(
    "user", [f"{STRANGER}:{STRANGER}" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"]
)
def test_down_lets_the_running_turn_finish_and_leaves_no_sandbox(
    project: Project, agent_image: str
) -> None:
    project.configure(agent_image)
    project.up()
    kinds: list[str] = []
    ending: subprocess.Popen[bytes] | None = None
    with (
        project.api() as api,
        api.stream(
            "POST",
            f"{group_path(project.group)}/messages",
            # 3 of the 5 seconds of grace that its config gives
            json={"text": "!slow 0.3\n!chunks 10\n!say one two three four five six"},
            headers={"accept": "text/event-stream"},
        ) as answer,
    ):
        for line in answer.iter_lines():
            if not line.startswith("event: "):
                continue
            kinds.append(line[7:])
            if kinds[-1] == "text.delta" and ending is None:
                [sandbox] = project.sandboxes()
                ending = subprocess.Popen(
                    ["docker", "compose", "--project-name", project.name, "down"],
                    cwd=project.directory,
                    env=project.environ,
                )
    assert kinds[-1] == "turn.finished"
    assert ending is not None
    assert ending.wait(COMMAND_DEADLINE) == 0
    install = sandbox["Config"]["Labels"]["nanokimi.install"]
    assert docker("ps", "-aq", "--filter", f"label=nanokimi.install={install}") == ""
    if os.geteuid() == 0:  # then it ran as a stranger, and so did the agent
        assert sandbox["Config"]["User"] == f"{STRANGER}:{STRANGER}"


@pytest.mark.docker
@pytest.mark.slow
def test_init_login_and_build_need_nothing_but_compose(project: Project, agent_image: str) -> None:
    assert "wrote /data/config.toml" in project.nanokimi("init")
    assert project.layout.config.is_file()
    assert project.layout.api_token.is_file()

    write_config(project.layout, project.provider, backend="docker", image=agent_image)
    assert "logged in to demo" in project.nanokimi("login")
    assert (project.layout.credentials / "kimi-code.json").is_file()
    assert "mount workspace_rw" in project.nanokimi("doctor")
    # It would build the very image that was built outside: nothing is left to do.
    assert f"{agent_image}: up to date" in project.nanokimi("build")


@pytest.mark.docker
@pytest.mark.slow
def test_data_that_is_no_mount_is_refused_with_the_fix(project: Project) -> None:
    (project.directory / "compose.override.yaml").write_text(
        "services:\n"
        "  nanokimi:\n"
        "    tmpfs: !override [/tmp, '/data:mode=1777']\n"
        "    volumes: !override ['${DOCKER_SOCKET}:/var/run/docker.sock']\n"
    )
    refused = project.compose(
        *("run", "--rm", "--no-TTY", "--entrypoint", "sh", "nanokimi"),
        *("-c", "nanokimi init && exec nanokimi serve"),
        may_fail=True,
    )
    assert refused.returncode == 2, refused.stderr
    assert "error: /data is inside this container only" in refused.stderr
    assert "hint: " in refused.stderr
    assert ":/data" in refused.stderr.partition("hint: ")[2]


def test_the_image_carries_all_that_builds_the_agent_s_image() -> None:
    carried = set(orchestrator_files())
    assert set(source_files()) <= carried
    assert {"runner/cli/main.py", "runner/host/app.py", "pyproject.toml"} <= carried
    assert not any("__pycache__" in name or name.startswith("tests") for name in carried)
