"""The request that creates a container, as data."""

from typing import Any

from runner.model import folder_of
from runner.sandbox.container import HostMount, create_body, info_of, name_of
from runner.sandbox.spawner import Limits, SandboxSpec
from runner.sandbox.volumes import Owner


def body(*command: str) -> dict[str, Any]:
    spec = SandboxSpec(
        group="Ünï 🙂",
        folder="g-1",
        config="secret-config",
        credentials={"kimi-code.json": "secret-token"},
        limits=Limits(memory=512 << 20, cpus=1.5, pids=99),
        command=command,
    )
    return create_body(
        spec,
        image="agent",
        install="i",
        generation=7,
        owner=Owner(10001, 10002),
        mounts=[HostMount("/h/ws", "/workspace", read_only=False)],
        network="none",
    )


def test_a_container_is_hardened():
    host = body()["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["ReadonlyRootfs"] is True
    assert host["NetworkMode"] == "none"
    assert "Privileged" not in host
    assert host["Memory"] == host["MemorySwap"] == 512 << 20
    assert (host["NanoCpus"], host["PidsLimit"]) == (1_500_000_000, 99)
    assert host["LogConfig"] == {
        "Type": "local",
        "Config": {"max-size": "10m", "max-file": "2"},
    }
    assert "nosuid" in host["Tmpfs"]["/tmp"]


def test_the_agent_is_pid_1_and_its_stdin_survives_the_host():
    made = body()
    assert made["HostConfig"]["Init"] is False
    assert (made["OpenStdin"], made["StdinOnce"], made["Tty"]) == (True, False, False)
    assert made["User"] == "10001:10002"


def test_nothing_secret_is_in_the_request():
    made = body()
    assert "secret" not in str(made)
    assert made["Env"] == ["HOME=/home/agent"]


def test_without_a_command_the_entrypoint_of_the_image_runs():
    assert "Entrypoint" not in body()
    assert body("kimi", "acp")["Entrypoint"] == ["kimi", "acp"]


def test_labels_come_back_as_the_sandbox_they_name():
    info = info_of("ref", body()["Labels"], running=True)
    assert (info.group, info.folder, info.generation) == ("Ünï 🙂", "g-1", 7)
    assert info_of("ref", {"nanokimi.generation": "many"}, running=False).generation == 0


def test_a_name_is_within_the_engine_s_bounds_for_any_id():
    name = name_of("i" * 500, folder_of("../🙂" * 90))
    assert len(name) <= 128
    assert name.replace("-", "").replace("_", "").isalnum()
