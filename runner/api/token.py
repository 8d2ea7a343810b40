"""The bearer token of the HTTP API: made once, kept in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from runner.errors import PermanentError
from runner.settings.layout import Layout


def api_token(layout: Layout) -> str:
    """The bearer token of the HTTP API, made when it is missing.

    Raises:
        PermanentError: it cannot be read or written.
    """
    try:
        layout.credentials.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(
                layout.api_token, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600
            )
        except FileExistsError:
            return _read(layout.api_token)
        with os.fdopen(descriptor, "w") as f:
            token = f"nk-api-{secrets.token_urlsafe(32)}"
            f.write(token + "\n")
            f.flush()
            os.fsync(f.fileno())
        return token
    except OSError as e:
        raise PermanentError(
            f"{layout.api_token} cannot be used: {e.strerror}",
            hint="check the owner and mode of the data directory",
        ) from None


def _read(path: Path) -> str:
    token = path.read_text("utf-8").strip()
    if not token:
        raise PermanentError(f"{path} is empty", hint="delete it: a new one is made")
    return token
