"""What the agent does to its own process before anything else runs."""

from __future__ import annotations

import ctypes
import os
import sys

# linux/prctl.h, linux/capability.h
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_CAP_SYS_PTRACE = 19


def claim_protocol() -> tuple[int, int]:
    """Move stdin and stdout to private descriptors; return ``(read, write)``.

    Afterwards fd 0 is ``/dev/null`` and fd 1 is stderr, so that neither a print nor a tool can
    reach the protocol. Both new descriptors are close-on-exec.
    """
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  it lives as long as the process
    sys.stdout = sys.stderr
    return read_fd, write_fd


def harden() -> None:
    """Close ``/proc/<pid>/fd`` and ptrace to tools, and adopt their orphans.

    A tool runs as the agent's own user, so without this it could open the agent's descriptors and
    forge protocol lines. Root would pass the check by capability: tools lose that one too. As a
    subreaper the agent is the parent of every orphan below it, so a tree can always be found.

    Raises:
        OSError: the kernel refuses to make the process undumpable.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
    libc.prctl(_PR_CAPBSET_DROP, _CAP_SYS_PTRACE, 0, 0, 0)  # refused unless root: not needed then
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
