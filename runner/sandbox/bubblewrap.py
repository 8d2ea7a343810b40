"""The command line that runs an agent in bubblewrap's namespaces.

Its own user, pid, ipc, uts and (when isolated) network namespaces; the agent is pid 1; the system
is read-only; the paths inside are those of a container. As root we drop to the sandbox's uid by
``setpriv`` and put the agent into a user namespace of its own, so that the limit on processes
counts for this sandbox alone. A host that is killed takes its sandboxes along only when it is not
root: with two users in play the kernel does not let one's end kill the other. Agents then see the
end of their stdin, and the next host ends what is left (see ``record``).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import runner
from runner.sandbox.mounts import Mount
from runner.sandbox.spawner import CONFIG_DIR, HOME, RUN_DIR, WORKSPACE, Limits, Network
from runner.sandbox.volumes import CONFIG_FILE, Owner

TMP_SIZE = 256 * 1024 * 1024
PROBE_DEADLINE = 10.0

# What programs look up in /etc; nothing there that names the host's people or secrets.
_ETC = (
    "/etc/alternatives", "/etc/ca-certificates", "/etc/hosts", "/etc/ld.so.cache",
    "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/pki", "/etc/resolv.conf",
    "/etc/ssl",
)  # fmt: skip
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")


def python_directories() -> tuple[str, ...]:
    """Where this Python and this package live, without what ``/usr`` holds already."""
    package = Path(runner.__file__).parent
    found = {str(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    found |= {sys.prefix, sys.base_prefix, str(package)}
    return tuple(
        sorted(p for p in found if not Path(p).is_relative_to("/usr") and p not in ("/", ""))
    )


def search_path() -> str:
    return f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"


def command_line(
    command: Sequence[str],
    *,
    mounts: Sequence[Mount],
    network: Network,
    limits: Limits,
    owner: Owner,
    as_root: bool,
    info_fd: int,
) -> list[str]:
    """Arguments that run ``command``; bubblewrap writes its pids as JSON to ``info_fd``.

    The order matters: mounts are made from left to right, and the root is made read-only last.
    """
    line = [
        "bwrap", "--info-fd", str(info_fd), "--die-with-parent", "--new-session", "--as-pid-1",
        "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        "--hostname", "agent",
    ]  # fmt: skip
    if not as_root:
        line += ["--unshare-user", "--uid", str(owner.uid), "--gid", str(owner.gid)]
    if network == "isolated":
        line += ["--unshare-net"]
    line += _system_mounts()
    line += ["--proc", "/proc", "--dev", "/dev"]
    line += ["--perms", "1777", "--size", str(TMP_SIZE), "--tmpfs", "/tmp"]  # noqa: S108
    for parent in _parents([*python_directories(), *(m.target for m in mounts)]):
        line += ["--perms", "0755", "--dir", parent]
    for directory in python_directories():
        line += ["--ro-bind", directory, directory]
    for mount in mounts:
        line += ["--ro-bind" if mount.read_only else "--bind", str(mount.source), mount.target]
    line += ["--symlink", f"config/{CONFIG_FILE}", f"{Path(CONFIG_DIR).parent}/{CONFIG_FILE}"]
    line += ["--symlink", HOME, "/home/node", "--remount-ro", "/", "--chdir", WORKSPACE]
    line += ["--clearenv"]
    for name, value in {
        "HOME": HOME,
        "PATH": search_path(),
        "LANG": "C.UTF-8",
        "NANOKIMI_RUN_DIR": RUN_DIR,
    }.items():
        line += ["--setenv", name, value]
    return [*line, "--", *_drop(owner, as_root=as_root), *_limit(limits), "--", *command]


async def probe(owner: Owner) -> str:
    """Why bubblewrap cannot be used here, or ``""``: programs missing, or namespaces forbidden."""
    as_root = os.geteuid() == 0
    needed = ("bwrap", "prlimit", *(("setpriv", "unshare") if as_root else ()))
    if missing := [name for name in needed if shutil.which(name) is None]:
        return f"{' and '.join(missing)} not installed"
    line = command_line(
        ["true"],
        mounts=[Mount(Path("/usr"), WORKSPACE, read_only=True)],
        network="isolated",
        limits=Limits(memory=1 << 28, cpus=1, pids=64),
        owner=owner,
        as_root=as_root,
        info_fd=2,
    )
    process = await asyncio.create_subprocess_exec(
        *line,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PROBE_DEADLINE):
            _, words = await process.communicate()
    except TimeoutError:
        process.kill()
        return "bwrap does not end"
    if process.returncode == 0:
        return ""
    last = words.decode("utf-8", "replace").strip().rsplit("\n", 1)[-1]
    return f"bwrap is here but cannot make namespaces: {last[-200:]}"


def _system_mounts() -> list[str]:
    line: list[str] = []
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            line += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            line += ["--ro-bind", name, name]
    for name in _ETC:
        line += ["--ro-bind-try", name, name]
    return line


def _parents(targets: Sequence[str]) -> list[str]:
    """Every directory above ``targets``, outermost first: bubblewrap alone makes them private."""
    found = {str(p) for target in targets for p in Path(target).parents} - {"/"}
    return sorted(found)


def _drop(owner: Owner, *, as_root: bool) -> list[str]:
    if not as_root:
        return []
    return [
        "setpriv", "--reuid", str(owner.uid), "--regid", str(owner.gid), "--clear-groups",
        "--inh-caps=-all", "--bounding-set=-all", "--",
        "unshare", "--user", f"--map-user={owner.uid}", f"--map-group={owner.gid}", "--",
    ]  # fmt: skip


def _limit(limits: Limits) -> list[str]:
    """Memory counts per process here (its private data), processes per sandbox."""
    return ["prlimit", f"--nproc={limits.pids}", f"--data={limits.memory}", "--core=0"]
