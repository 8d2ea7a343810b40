"""A login as a value: the token pair, when it ends, and when it should be renewed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

DEFAULT_LIFETIME = 900.0
REFRESH_BEFORE = 300.0
MAX_TOKEN_CHARS = 16_384
# A token that ends later than it can has seen the clock go back.
_CLOCK_SLACK = 60.0


@dataclass(frozen=True, slots=True)
class TokenSet:
    """One login. Tokens print as ``***``.

    ``expires_at`` is in Unix seconds; ``lifetime`` is how many seconds the access token had when
    it was issued, ``None`` when nobody wrote it down; ``refresh_token`` may be empty: then it
    cannot be renewed. ``extra`` holds fields of the token file that mean nothing to us.
    """

    access_token: SecretStr
    refresh_token: SecretStr
    expires_at: float
    scope: str = ""
    token_type: str = "Bearer"  # noqa: S105  the name of a scheme
    lifetime: float | None = None
    extra: Mapping[str, object] = field(default_factory=dict, repr=False)

    @property
    def fingerprint(self) -> str:
        """Names this login without telling anything of its tokens."""
        secret = self.refresh_token.get_secret_value() or self.access_token.get_secret_value()
        return hashlib.sha256(secret.encode()).hexdigest()[:32]


def refresh_due_at(tokens: TokenSet) -> float:
    """Unix time from which the access token should be renewed.

    That is when less than max(300 s, half the lifetime) is left; for tokens that live shorter
    than that, when half of their life is over.
    """
    lifetime = tokens.lifetime or DEFAULT_LIFETIME
    ahead = max(REFRESH_BEFORE, lifetime / 2)
    return tokens.expires_at - (ahead if ahead < lifetime else lifetime / 2)


def needs_refresh(tokens: TokenSet, now: float) -> bool:
    """Whether the access token should be renewed at ``now`` (Unix seconds)."""
    ends_too_late = (
        tokens.lifetime is not None and tokens.expires_at - now > tokens.lifetime + _CLOCK_SLACK
    )
    return ends_too_late or now >= refresh_due_at(tokens)


def is_usable(tokens: TokenSet, now: float, *, margin: float = 5.0) -> bool:
    """Whether a request sent at ``now`` will still find the access token alive."""
    return tokens.expires_at - now > margin


def _no_blanks(value: SecretStr) -> SecretStr:
    """A token goes into a header: a newline or a letter outside ASCII must not get that far."""
    text = value.get_secret_value()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("has blanks, line ends or letters outside ASCII")
    return value


_Token = Annotated[SecretStr, Field(min_length=1, max_length=MAX_TOKEN_CHARS)]
Token = Annotated[_Token, AfterValidator(_no_blanks)]
MaybeToken = Annotated[SecretStr, Field(max_length=MAX_TOKEN_CHARS), AfterValidator(_no_blanks)]
Seconds = Annotated[float, Field(gt=0, le=10 * 365 * 86_400, allow_inf_nan=False)]


class TokenAnswer(BaseModel):
    """What the token endpoint answers: RFC 6749 §5.1. A renewal may leave the rest as it was."""

    model_config = ConfigDict(hide_input_in_errors=True)

    access_token: Token
    refresh_token: Token | None = None
    expires_in: Seconds = DEFAULT_LIFETIME
    scope: str | None = None
    token_type: str = "Bearer"  # noqa: S105  the name of a scheme

    def tokens(self, now: float, old: TokenSet | None = None) -> TokenSet:
        """The login from ``now`` on; what the answer leaves out is taken from ``old``."""
        refresh = self.refresh_token or (old.refresh_token if old else SecretStr(""))
        return TokenSet(
            access_token=self.access_token,
            refresh_token=refresh,
            expires_at=now + self.expires_in,
            scope=self.scope if self.scope is not None else (old.scope if old else ""),
            token_type=self.token_type,
            lifetime=self.expires_in,
            extra=old.extra if old else {},
        )


def problems(error: ValidationError) -> str:
    """What is wrong, by field, without the values: they are secrets."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg'].removeprefix('Value error, ')}"
        for one in found[:5]
    )
