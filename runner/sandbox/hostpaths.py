"""Where our paths are on the engine's machine, also when we run in a container ourselves.

An engine resolves mount sources on its own machine. In a container we find our own id in
``/proc/self/mountinfo`` (the host name can be anything), ask the engine for our mounts, and
translate by the longest destination that holds a path.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runner.errors import ConfigError
from runner.sandbox.engine import ContainerMount, Engine

# Files that every engine mounts into a container from a directory named after its id.
_OWN_FILES = frozenset({"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"})
_ID = re.compile(r"/(?:containers|overlay-containers)/([0-9a-f]{64})/")


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Translates paths; ``mounts`` is ``None`` when we do not run in a container."""

    mounts: tuple[ContainerMount, ...] | None = None

    def of(self, path: Path, *, read_only: bool = False) -> str:
        """The path of ``path`` on the engine's machine.

        Raises:
            ConfigError: we run in a container and the path is not in one of its mounts, or only
                read-only and ``read_only`` is not enough.
        """
        if self.mounts is None:
            return str(path)
        return translate(PurePosixPath(path), self.mounts, read_only=read_only)


def own_container_id(mountinfo: str) -> str | None:
    """The id of the container that this ``mountinfo`` was read in, or ``None``. Pure.

    Only the root and the mount point of the engine's own files count: on an engine's machine the
    ids of all its containers appear as mount points.
    """
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4 and fields[4] in _OWN_FILES and (found := _ID.search(fields[3])):
            return found[1]
    return None


def translate(
    path: PurePosixPath, mounts: Sequence[ContainerMount], *, read_only: bool = False
) -> str:
    """See :meth:`HostPaths.of`; pure."""
    holding = [m for m in mounts if path.is_relative_to(m.destination)]
    if not holding:
        raise ConfigError(
            f"{path} is inside this container only: the engine cannot mount it into sandboxes",
            hint=f"start this container with a mount that holds it: -v /srv/nanokimi:{path}",
            code="path_not_mapped",
        )
    best = max(holding, key=lambda m: len(m.destination))
    if not best.writable and not read_only:
        raise ConfigError(
            f"{path} is mounted read-only into this container",
            hint=f"mount {best.destination} read-write",
            code="path_not_mapped",
        )
    return str(PurePosixPath(best.source) / path.relative_to(best.destination))


async def find_host_paths(engine: Engine, data: Path) -> HostPaths:
    """How to translate, checked with ``data``, the data directory.

    Raises:
        ConfigError: this engine does not know our container, or ``data`` is not mounted.
        EngineError: the engine does not answer.
    """
    try:
        own = own_container_id(Path("/proc/self/mountinfo").read_text("utf-8", "replace"))
    except OSError:  # no such file on this system: then it is no Linux container either
        own = None
    if own is None:
        return HostPaths()
    mounts = await engine.mounts_of(own)
    if mounts is None:
        raise ConfigError(
            f"this process runs in a container ({own[:12]}) that the engine does not know",
            hint="give it the socket of the engine it runs on",
            code="path_not_mapped",
        )
    paths = HostPaths(mounts)
    paths.of(data)
    return paths
