"""Which directories a sandbox sees, and where: a pure function from a spec to mounts.

Everything read-only hangs from a read-only root, never from a writable parent: whoever may rename
the parent of a read-only mount can put a file of their own in its place. Only directories are
mounted: a mounted file keeps its old inode when the host replaces it by rename.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runner.errors import ConfigError
from runner.sandbox.spawner import (
    CONFIG_DIR,
    CREDENTIALS_DIR,
    RUN_DIR,
    SESSIONS_DIR,
    WORKSPACE,
    ExtraMount,
    SandboxSpec,
)
from runner.settings.layout import Layout

EXTRA_ROOT = "/mnt"

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Directories of the system that give a stranger the host, whole or in part.
_FORBIDDEN_BELOW = ("/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/var/lib/docker")
_FORBIDDEN_EXACT = ("/", "/etc", "/home", "/root", "/var", "/var/lib", "/usr", "/tmp")  # noqa: S108
_SECRET_NAMES = frozenset(
    {
        ".ssh", ".gnupg", ".aws", ".azure", ".gcloud", ".kube", ".docker", ".netrc", ".pgpass",
        ".npmrc", ".pypirc", ".git-credentials", ".env", ".vault-token", "credentials",
        "id_rsa", "id_ed25519", "id_ecdsa", "shadow", "docker.sock", "containerd.sock",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    """``source`` is a directory as this process sees it, ``target`` the path in the sandbox."""

    source: Path
    target: str
    read_only: bool


def plan(layout: Layout, spec: SandboxSpec) -> tuple[Mount, ...]:
    """Every mount of the group's sandbox, in a fixed order; nothing is touched.

    Raises:
        ConfigError: two extra mounts have one name, or a name is not safe.
    """
    return (
        Mount(layout.config_projection(spec.folder), CONFIG_DIR, read_only=True),
        Mount(layout.credentials_projection(spec.folder), CREDENTIALS_DIR, read_only=True),
        Mount(layout.sessions(spec.folder), SESSIONS_DIR, read_only=False),
        Mount(layout.workspace(spec.folder), WORKSPACE, read_only=False),
        Mount(layout.socket_dir(spec.folder), RUN_DIR, read_only=True),
        *_extras(spec.extra_mounts),
    )


def _extras(extras: tuple[ExtraMount, ...]) -> tuple[Mount, ...]:
    names: set[str] = set()
    mounts: list[Mount] = []
    for extra in extras:
        if not _SAFE_NAME.fullmatch(extra.name) or extra.name in names:
            raise ConfigError(
                f"the mount name {extra.name[:80]!r} is not safe or is used twice",
                hint="name each mount once, with letters, digits, dot, dash and underscore",
            )
        names.add(extra.name)
        mounts.append(Mount(Path(extra.source), f"{EXTRA_ROOT}/{extra.name}", extra.read_only))
    return tuple(mounts)


def check_extra(mount: ExtraMount, data: Path) -> None:
    """Refuse an operator's mount that would hand out secrets or the host.

    Looks at the file system: the source must be a directory and its own real path, so that what
    was allowed is what gets mounted. ``data`` is the real path of the data directory.

    Raises:
        ConfigError: says which rule the mount breaks.
    """
    source = Path(mount.source)
    try:
        resolved = source.resolve(strict=True)
        is_dir = stat.S_ISDIR(resolved.stat().st_mode)
        entries = {entry.name for entry in resolved.iterdir()} if is_dir else set()
    except OSError as e:
        raise _refused(mount, f"it cannot be read: {e.strerror}") from None
    if resolved != source:
        raise _refused(mount, f"it is a link to {resolved}")
    if not is_dir:
        raise _refused(mount, "it is not a directory")
    why = objection(PurePosixPath(resolved), PurePosixPath(data), frozenset(entries))
    if why:
        raise _refused(mount, why)


def objection(source: PurePosixPath, data: PurePosixPath, entries: frozenset[str]) -> str:
    """Why ``source`` (a real path with these entries) must not be mounted, or ``""``. Pure."""
    if str(source) in _FORBIDDEN_EXACT or any(
        source.is_relative_to(root) for root in _FORBIDDEN_BELOW
    ):
        return "it is a directory of the system"
    if source.is_relative_to(data) or data.is_relative_to(source):
        return "it overlaps the data directory, which holds credentials and other groups"
    if named := sorted(_SECRET_NAMES.intersection(source.parts)):
        return f"{named[0]} is a place for secrets"
    if held := sorted(_SECRET_NAMES.intersection(entries)):
        return f"it holds {held[0]}, a place for secrets"
    return ""


def _refused(mount: ExtraMount, why: str) -> ConfigError:
    return ConfigError(
        f'the mount "{mount.name}" of {mount.source} is refused: {why}',
        hint="mount a directory that holds only what the group may read",
    )
