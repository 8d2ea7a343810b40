"""What can go wrong, in two kinds: worth another try, or not.

Every error carries a ``code`` (stable, machine-readable), a message that says what happened to
which thing, and a ``hint`` that says what to do next. The terminal prints both, the API puts them
into ``{"error": {"code", "message", "hint"}}``, and events carry them unchanged.
"""

from __future__ import annotations


class NanokimiError(Exception):
    """Base of all errors that a user may see.

    Args:
        message: what happened, to which thing.
        hint: what to do next; empty when there is nothing to do.
        code: stable name of the kind of failure; the class has a default.
    """

    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code


class TemporaryError(NanokimiError):
    """The same call may succeed later; ``retry_after`` (seconds) is the other side's wish."""

    code = "temporary"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.retry_after = retry_after


class PermanentError(NanokimiError):
    """Trying again changes nothing until a person does something."""

    code = "permanent"


class ConfigError(PermanentError):
    """``config.toml`` or an option is wrong."""

    code = "config_invalid"
    exit_code = 2


class LoginRequiredError(PermanentError):
    """No usable login for a provider."""

    code = "login_required"
    exit_code = 3


class EngineError(TemporaryError):
    """The sandbox engine did not answer or refused."""

    code = "engine_unavailable"
    exit_code = 4


ENGINE_SILENT = "engine_silent"
"""The code of an :class:`EngineError`: no engine answered, whatever it was asked."""


class ImageMissingError(PermanentError):
    """The engine works, but the agent image is not there."""

    code = "image_missing"
    exit_code = 4


class ConflictError(PermanentError):
    """A newer generation or another owner holds the name."""

    code = "conflict"


class OwnedElsewhereError(ConflictError):
    """Another host has the group."""

    code = "owned_elsewhere"


class SandboxGoneError(TemporaryError):
    """The sandbox ended while it was needed."""

    code = "sandbox_gone"


class ProtocolError(TemporaryError):
    """The peer broke the wire protocol; the sandbox is ended."""

    code = "protocol_violation"


class NotFoundError(PermanentError):
    """No such group, message or turn."""

    code = "not_found"


class BusyError(TemporaryError):
    """A bounded queue is full."""

    code = "queue_full"
