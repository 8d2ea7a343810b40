"""The token file of one login, in the format that kimi-cli knows.

``{access_token, refresh_token, expires_at, scope, token_type}``; we add ``expires_in``, the life
the access token had at first, and keep fields we do not know. Beside it lies ``NAME.state.json``,
which remembers how the last renewals went.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.errors import ConfigError, PermanentError
from runner.oauth import private_files
from runner.oauth.lock import process_lock
from runner.oauth.tokens import MaybeToken, Seconds, Token, TokenSet, problems

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
LOCK_DEADLINE = 30.0
_LOGIN_HINT = "run `nanokimi login`"

log = structlog.get_logger(__name__)


class _TokenFile(BaseModel):
    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    access_token: Token
    refresh_token: MaybeToken
    expires_at: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    scope: str = ""
    token_type: str = "Bearer"  # noqa: S105  the name of a scheme
    expires_in: Seconds | None = None


class _StateFile(BaseModel):
    login: str = ""
    lost: bool = False
    last_refresh: float | None = None
    last_failure: str = ""


@dataclass(frozen=True, slots=True)
class RefreshRecord:
    """How the last renewals of a login went; ``lost`` says that the provider refused it for good.

    ``last_refresh`` is in Unix seconds.
    """

    lost: bool = False
    last_refresh: float | None = None
    last_failure: str = ""


def parse_login(content: bytes, path: Path) -> TokenSet:
    """A token file's content, ours or one that ``kimi login`` has made; ``path`` is for messages.

    Raises:
        PermanentError: it is not a login; the message never holds a token.
    """
    try:
        file = _TokenFile.model_validate_json(content)
    except ValidationError as e:
        raise PermanentError(
            f"{path} is not a usable login: {problems(e)}",
            hint=f"{_LOGIN_HINT}, or correct the file",
            code="credentials_invalid",
        ) from None
    return TokenSet(
        access_token=file.access_token,
        refresh_token=file.refresh_token,
        expires_at=file.expires_at,
        scope=file.scope,
        token_type=file.token_type,
        lifetime=file.expires_in,
        extra=dict(file.model_extra or {}),
    )


def _is_login(path: Path) -> bool:
    try:
        parse_login(private_files.read_private(path) or b"", path)
    except PermanentError:
        return False
    return True


class TokenStore:
    """The token file of one login below a credentials directory.

    Args:
        directory: the credentials directory; made with mode 0700 at the first write.
        key: as in ``oauth = {storage = "file", key = "oauth/kimi-code"}``; its last part names
            the file.

    Raises:
        ConfigError: the key is a path or has no usable last part.
    """

    def __init__(self, directory: Path, key: str) -> None:
        name = key.rsplit("/", 1)[-1]
        if key.startswith(("/", "~")) or ".." in key.split("/") or not _NAME.fullmatch(name):
            raise ConfigError(
                f"the oauth key {key[:200]!r} is not a name like oauth/kimi-code",
                hint='set key = "oauth/kimi-code": never a path',
            )
        self.directory = directory
        self.path = directory / f"{name}.json"
        self.lock_path = directory / f"{name}.lock"
        self._state_path = directory / f"{name}.state.json"

    def load(self) -> TokenSet | None:
        """The login on disk; ``None`` when there is none.

        Raises:
            PermanentError: the file is there but cannot be used; it is left as it is.
        """
        content = private_files.read_private(self.path)
        return None if content is None else parse_login(content, self.path)

    def save(self, tokens: TokenSet, *, replaces: str = "") -> None:
        """Put the login on disk; it is durable when this returns.

        Args:
            replaces: fingerprint of the login that was spent for this one, if any: when we are
                killed half-way, :meth:`recover` can finish the work.

        Raises:
            PermanentError: it cannot be written; the old file is untouched.
        """
        file: dict[str, object] = {
            **tokens.extra,
            "access_token": tokens.access_token.get_secret_value(),
            "refresh_token": tokens.refresh_token.get_secret_value(),
            "expires_at": tokens.expires_at,
            "scope": tokens.scope,
            "token_type": tokens.token_type,
        }
        if tokens.lifetime is not None:
            file["expires_in"] = tokens.lifetime
        private_files.write_private(self.path, json.dumps(file).encode(), mark=replaces)

    def recover(self) -> None:
        """Clear up after writers that were killed. Only for who holds the lock.

        A renewed login that lies whole beside the token file, and was made from the one in it, is
        put in its place: its predecessor is spent, so it is the only one that still works.

        Raises:
            PermanentError: the token file cannot be used, or the directory cannot be written.
        """
        current = self.load()
        for mark, left in private_files.leftovers(self.path):
            if current is not None and mark == current.fingerprint and _is_login(left):
                private_files.put_in_place(left, self.path)
                log.warning("oauth.recovered", path=str(self.path))
                current = self.load()
            else:
                private_files.remove(left)
        for _, left in private_files.leftovers(self._state_path):
            private_files.remove(left)

    async def replace(self, tokens: TokenSet) -> None:
        """:meth:`save` a new login while nobody is renewing the old one (``nanokimi login``).

        Raises:
            TemporaryError: another process held the lock for 30 seconds.
            PermanentError: it cannot be written.
        """
        private_files.prepare_dir(self.directory)
        async with process_lock(self.lock_path, LOCK_DEADLINE):
            self.save(tokens)

    async def delete(self) -> bool:
        """Forget the login (``nanokimi logout``); whether there was one.

        Raises:
            TemporaryError: another process held the lock for 30 seconds.
            PermanentError: it cannot be removed.
        """
        if not (self.path.is_symlink() or self.path.exists()):
            return False
        async with process_lock(self.lock_path, LOCK_DEADLINE):
            for path in (self.path, self._state_path):
                private_files.remove(path)
        return True

    def check_writable(self) -> None:
        """To be asked before a refresh token is spent.

        Raises:
            PermanentError: :meth:`save` would fail.
        """
        private_files.check_writable(self.path)

    def record(self, tokens: TokenSet) -> RefreshRecord:
        """How the renewals of this login went; what was noted of an earlier login is not shown.

        An unreadable record counts as none: the worst it costs is one more question.
        """
        try:
            content = private_files.read_private(self._state_path)
            state = _StateFile.model_validate_json(content or b"{}")
        except (PermanentError, ValidationError):
            return RefreshRecord()
        if state.login != tokens.fingerprint:
            return RefreshRecord()
        return RefreshRecord(state.lost, state.last_refresh, state.last_failure)

    def note_refreshed(self, tokens: TokenSet, at: float) -> None:
        """The renewal that brought ``tokens`` went well at ``at`` (Unix seconds)."""
        self._note(tokens, RefreshRecord(last_refresh=at))

    def note_failure(self, tokens: TokenSet, why: str, *, lost: bool = False) -> None:
        """A renewal of ``tokens`` failed; ``lost`` if the provider refused it for good."""
        last = self.record(tokens).last_refresh
        self._note(tokens, RefreshRecord(lost=lost, last_refresh=last, last_failure=why))

    def _note(self, tokens: TokenSet, record: RefreshRecord) -> None:
        state = _StateFile(
            login=tokens.fingerprint,
            lost=record.lost,
            last_refresh=record.last_refresh,
            last_failure=record.last_failure,
        )
        private_files.write_private(self._state_path, state.model_dump_json().encode())
