"""How a login stands, as people may see it: no token in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from runner.oauth.store import RefreshRecord
from runner.oauth.tokens import TokenSet, is_usable, needs_refresh


class LoginState(StrEnum):
    """``ok``; ``expiring``: due for renewal; ``lost``: log in again; ``absent``: never did."""

    OK = "ok"
    EXPIRING = "expiring"
    LOST = "lost"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class LoginStatus:
    """Times are Unix seconds."""

    state: LoginState
    scope: str = ""
    expires_at: float | None = None
    last_refresh: float | None = None
    last_failure: str = ""


def judge(tokens: TokenSet | None, record: RefreshRecord, now: float) -> LoginStatus:
    """The status of a login at ``now`` (Unix seconds)."""
    if tokens is None:
        return LoginStatus(LoginState.ABSENT)
    renewable = bool(tokens.refresh_token.get_secret_value())
    if record.lost or not (renewable or is_usable(tokens, now)):
        state = LoginState.LOST
    else:
        state = LoginState.EXPIRING if needs_refresh(tokens, now) else LoginState.OK
    return LoginStatus(
        state, tokens.scope, tokens.expires_at, record.last_refresh, record.last_failure
    )
