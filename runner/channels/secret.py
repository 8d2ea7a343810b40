"""The secret that webhooks are signed with: made once, in a file that only its owner can read."""

from __future__ import annotations

import secrets

from runner.errors import PermanentError
from runner.oauth.private_files import create_private, read_private
from runner.settings.layout import Layout


def webhook_secret(layout: Layout) -> bytes:
    """The signing key as it is now, made when it is missing. The file may be replaced any time.

    Raises:
        PermanentError: it cannot be read or written, or is empty.
    """
    path = layout.webhook_secret
    content = read_private(path)
    if content is None:
        create_private(path, f"nk-hook-{secrets.token_urlsafe(32)}\n".encode())
        content = read_private(path)
    if not (secret := (content or b"").strip()):
        raise PermanentError(f"{path} is empty", hint="delete it: a new one is made")
    return secret
