"""Which of an operator's directories may be mounted. Looks at the disk: real paths decide."""

from __future__ import annotations

import os
from pathlib import Path

from runner.settings.problem import Problem, Where, Wrong
from runner.settings.schema import Settings
from runner.settings.tables import GroupTable, Mount
from runner.settings.texts import RW, mount_name

SECRET_NAMES = frozenset(
    {
        ".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".gcloud", ".kimi", ".netrc",
        ".pgpass", ".env", ".git-credentials", ".password-store", ".npmrc", ".pypirc",
        ".vault-token", "credentials", "secrets", "docker.sock",
    }
)  # fmt: skip
_SYSTEM = tuple(
    Path(p)
    for p in (
        "/boot", "/dev", "/etc", "/proc", "/root", "/run", "/sys", "/var/run", "/var/lib/docker",
        "/var/lib/containerd",
    )
)  # fmt: skip
_FIX_ALLOW = 'add it to sandbox.mounts_allowlist ("/path" read-only, "/path:rw" for writing)'


def resolve(settings: Settings, root: Path) -> tuple[Settings, list[Problem]]:
    """The same settings with real mount sources, and what is wrong with the others.

    Args:
        root: the data directory, of which nothing may be mounted this way.
    """
    problems: list[Problem] = []
    groups: dict[str, GroupTable] = {}
    for group_id, group in settings.groups.items():
        mounts: list[Mount] = []
        for index, mount in enumerate(group.mounts):
            where: Where = ("groups", group_id, "mounts", index)
            found = _one(mount, settings.sandbox.mounts_allowlist, root, where)
            if isinstance(found, Problem):
                problems.append(found)
            elif any(found.name == other.name for other in mounts):
                problems.append(
                    Problem(
                        (*where, "name"), f'is "{found.name}" a second time', "give it another name"
                    )
                )
            else:
                mounts.append(found)
        groups[group_id] = group.model_copy(update={"mounts": tuple(mounts)})
    if not any(group.mounts for group in settings.groups.values()):
        return settings, problems
    return settings.model_copy(update={"groups": groups}), problems


def _one(mount: Mount, allowlist: tuple[str, ...], root: Path, where: Where) -> Mount | Problem:
    here = (*where, "source")
    try:
        real = Path(os.path.realpath(mount.source, strict=True))
    except OSError as e:
        return Problem(
            here, f"is {mount.source}, which cannot be used: {e.strerror}", "create the directory"
        )
    name = mount.name or real.name
    if not real.is_dir():
        return Problem(
            here, f"is {mount.source}, which is no directory", "mount the directory it lies in"
        )
    if reason := _refused(real, Path(os.path.realpath(root))):
        return Problem(
            here,
            f"is {mount.source}, which is never mounted: {reason}",
            "copy what the group needs into a directory of its own",
        )
    allowed, writable = _allowed(real, allowlist)
    if not allowed:
        return Problem(
            here, f"is {mount.source}, which sandbox.mounts_allowlist does not allow", _FIX_ALLOW
        )
    if mount.mode == "rw" and not writable:
        return Problem(
            (*where, "mode"),
            f'is "rw", but sandbox.mounts_allowlist allows {mount.source} read-only',
            'write "ro", or put ":rw" behind the path in the allowlist',
        )
    try:
        return Mount(source=str(real), name=mount_name(name), mode=mount.mode)
    except Wrong as e:
        return Problem((*where, "name"), e.text, f"add name = …: {e.fix}")


def _refused(real: Path, root: Path) -> str:
    if real == Path("/"):
        return "it is the whole host"
    if real == root or root in real.parents or real in root.parents:
        return "it holds, or lies in, the data directory"
    for system in _SYSTEM:
        if real == system or system in real.parents:
            return f"{system} belongs to the host"
    for part in real.parts:
        if part.lower() in SECRET_NAMES:
            return f"{part} is a name of secrets"
    try:
        inside = sorted(SECRET_NAMES.intersection(entry.name.lower() for entry in real.iterdir()))
    except OSError as e:
        return f"it cannot be looked into ({e.strerror})"
    return f"{inside[0]} lies in it, a name of secrets" if inside else ""


def _allowed(real: Path, allowlist: tuple[str, ...]) -> tuple[bool, bool]:
    """``(allowed, writable)``; the real paths of the entries count."""
    allowed = writable = False
    for entry in allowlist:
        base = Path(os.path.realpath(entry.removesuffix(RW)))
        if real == base or base in real.parents:
            allowed = True
            writable = writable or entry.endswith(RW)
    return allowed, writable
