"""Notes on stderr: an event name and keys. The host keeps them in the group's log."""

from __future__ import annotations

import os
import sys
import traceback


def note(event: str, **keys: object) -> None:
    sys.stderr.write(" ".join([event, *(f"{k}={v!r}" for k, v in keys.items())]) + "\n")
    sys.stderr.flush()


def complain(message: str, hint: str = "") -> None:
    """An error as people read it; its traceback only when ``NANOKIMI_LOG_LEVEL`` is ``debug``."""
    if os.environ.get("NANOKIMI_LOG_LEVEL", "").lower() == "debug" and sys.exc_info()[0]:
        traceback.print_exc()
    sys.stderr.write(f"error: {message}\n" + (f"hint: {hint}\n" if hint else ""))
    sys.stderr.flush()
