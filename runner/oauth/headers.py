"""The ``X-Msh-*`` headers by which Kimi's OAuth server knows a client. Honest values, ASCII."""

from __future__ import annotations

import platform
import uuid
from pathlib import Path

from runner import __version__
from runner.oauth import private_files

MAX_CHARS = 100
_DEVICE_ID = "device_id"


def client_headers(credentials: Path, *, platform_name: str = "nanokimi") -> dict[str, str]:
    """Headers of every OAuth request.

    The device id is made once and kept in the ``credentials`` directory.

    Raises:
        PermanentError: the device id can neither be read nor written.
    """
    return {
        "User-Agent": f"nanokimi/{__version__}",
        "X-Msh-Platform": ascii_only(platform_name),
        "X-Msh-Version": __version__,
        "X-Msh-Device-Name": ascii_only(platform.node()),
        "X-Msh-Device-Model": ascii_only(f"{platform.system()} {platform.machine()}"),
        "X-Msh-Os-Version": ascii_only(platform.release()),
        "X-Msh-Device-Id": device_id(credentials / _DEVICE_ID),
    }


def ascii_only(text: str) -> str:
    """``text`` as a header may carry it: printable ASCII, at most 100 characters, never empty."""
    kept = "".join(c for c in text if c.isascii() and c.isprintable())
    return kept[:MAX_CHARS].strip() or "unknown"


def device_id(path: Path) -> str:
    """The id in the file, made when it is missing or spoiled. Two first starts agree on one."""
    for attempt in (1, 2):
        known = (private_files.read_private(path) or b"").decode("ascii", "replace").strip()
        if len(known) == 32 and known.isalnum() and known.isascii():
            break
        fresh = uuid.uuid4().hex.encode()
        write = private_files.create_private if attempt == 1 else private_files.write_private
        write(path, fresh)
    return (private_files.read_private(path) or b"").decode("ascii")
