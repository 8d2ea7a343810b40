"""One sandbox as the request that creates its Docker container. Pure.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.sandbox.mounts import Mount
from runner.sandbox.spawner import HOME, WORKSPACE, SandboxInfo, SandboxSpec
from runner.sandbox.volumes import Owner

LABEL_INSTALL = "nanokimi.install"
LABEL_FOLDER = "nanokimi.group"
LABEL_GROUP = "nanokimi.group_id"
LABEL_GENERATION = "nanokimi.generation"

TMP_OPTIONS = "rw,nosuid,nodev,size=256m,mode=1777"


@dataclass(frozen=True, slots=True)
class HostMount:
    """A mount whose ``source`` is a path of the engine's own machine."""

    source: str
    target: str
    read_only: bool

    @classmethod
    def of(cls, mount: Mount, source: str) -> HostMount:
        return cls(source, mount.target, mount.read_only)


def name_of(install: str, folder: str) -> str:
    """The container's name, and so the group's lock. At most 32 + 41 characters and a prefix."""
    return f"nanokimi-{install[:32]}-{folder}"


def create_body(
    spec: SandboxSpec,
    *,
    image: str,
    install: str,
    generation: int,
    owner: Owner,
    mounts: Sequence[HostMount],
    network: str,
) -> dict[str, object]:
    """The JSON body of ``POST /containers/create``.

    ``StdinOnce`` is false so that a new host process can attach again after the old one died; the
    agent is pid 1 itself (no init), because an init process would hold its descriptors open for
    every tool. The environment holds nothing secret.
    """
    body: dict[str, object] = {
        "Image": image,
        "Hostname": "agent",
        "User": f"{owner.uid}:{owner.gid}",
        "Env": [f"HOME={HOME}"],
        "WorkingDir": WORKSPACE,
        "OpenStdin": True,
        "StdinOnce": False,
        "Tty": False,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Labels": {
            LABEL_INSTALL: install,
            LABEL_FOLDER: spec.folder,
            LABEL_GROUP: spec.group,
            LABEL_GENERATION: str(generation),
        },
        "HostConfig": {
            "Mounts": [
                {"Type": "bind", "Source": m.source, "Target": m.target, "ReadOnly": m.read_only}
                for m in mounts
            ],
            "NetworkMode": network,
            "ReadonlyRootfs": True,
            "Tmpfs": {"/tmp": TMP_OPTIONS},  # noqa: S108
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "PidsLimit": spec.limits.pids,
            "Memory": spec.limits.memory,
            "MemorySwap": spec.limits.memory,  # the sum of both: so no swap
            "NanoCpus": int(spec.limits.cpus * 1_000_000_000),
            "Init": False,
            "AutoRemove": False,
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "local", "Config": {"max-size": "10m", "max-file": "2"}},
        },
    }
    if spec.command:
        body["Entrypoint"] = list(spec.command)
        body["Cmd"] = []
    return body


def info_of(ref: str, labels: Mapping[str, str], *, running: bool) -> SandboxInfo:
    """A container of ours by its labels; a label that is missing or wrong counts as empty or 0."""
    generation = labels.get(LABEL_GENERATION, "")
    return SandboxInfo(
        ref=ref,
        group=labels.get(LABEL_GROUP, ""),
        folder=labels.get(LABEL_FOLDER, ""),
        generation=int(generation) if generation.isdecimal() else 0,
        running=running,
    )
