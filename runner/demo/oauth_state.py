"""The tokens and device logins of the demo provider: Kimi Code's OAuth rules, kept in memory.

RFC 8628 (device flow) and RFC 6749 §6 (refresh), with the two habits of the real server that cost
people their logins: refresh tokens rotate, and a used one is dead at once.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

CLIENT_ID = "17e5f671-d194-4dfb-9706-5516cb48c098"
SCOPE = "kimi-code"
SLOW_DOWN_SECONDS = 5.0
MAX_DEVICES = 1_000
_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_INVALID_GRANT = "The provided authorization grant is invalid"
# A poll may arrive this much early: clocks and schedulers are not exact.
_EARLY = 0.9


class OAuthRefusal(Exception):
    """The ``error`` and ``error_description`` of a refused token request."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status


class DeviceState(StrEnum):
    """``pending → approved | denied``; an approved code is redeemed once."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    REDEEMED = "redeemed"


@dataclass(slots=True)
class _Device:
    user_code: str
    state: DeviceState
    expires_at: float
    interval: float
    polled_at: float = 0.0


class OAuthState:
    """All logins of one demo provider. Thread-safe.

    Args:
        clock: Unix seconds.
        access_lifetime: seconds an access token lives.
        device_lifetime: seconds a device code may be redeemed.
        poll_interval: seconds between polls that a client is told to keep.
        auto_approve: device logins are approved at once instead of by a person.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        access_lifetime: float = 900.0,
        device_lifetime: float = 600.0,
        poll_interval: float = 1.0,
        auto_approve: bool = True,
    ) -> None:
        self.access_lifetime = access_lifetime
        self.auto_approve = auto_approve
        self.refreshes = 0
        self.logins = 0
        self.replayed_refresh_tokens = 0
        self._clock = clock
        self._device_lifetime = device_lifetime
        self._poll_interval = poll_interval
        self._lock = threading.Lock()
        self._devices: dict[str, _Device] = {}
        self._access: dict[str, float] = {}
        self._refresh: set[str] = set()
        self._spent: set[str] = set()

    def authorize(self, verification_uri: str) -> dict[str, Any]:
        """Begin a device login: the answer of ``device_authorization``."""
        now = self._clock()
        code = "".join(secrets.choice(_CODE_LETTERS) for _ in range(8))
        device = _Device(
            user_code=f"{code[:4]}-{code[4:]}",
            state=DeviceState.APPROVED if self.auto_approve else DeviceState.PENDING,
            expires_at=now + self._device_lifetime,
            interval=self._poll_interval,
        )
        device_code = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._devices) >= MAX_DEVICES:
                del self._devices[next(iter(self._devices))]
            self._devices[device_code] = device
        return {
            "device_code": device_code,
            "user_code": device.user_code,
            "verification_uri": verification_uri,
            "verification_uri_complete": f"{verification_uri}?user_code={device.user_code}",
            "expires_in": _number(self._device_lifetime),
            "interval": _number(self._poll_interval),
        }

    def decide(self, user_code: str, *, approve: bool) -> bool:
        """A person approves or denies; ``False`` when no login waits under this code."""
        with self._lock:
            for device in self._devices.values():
                if device.user_code == user_code and device.state is DeviceState.PENDING:
                    device.state = DeviceState.APPROVED if approve else DeviceState.DENIED
                    return True
        return False

    def waiting_codes(self) -> list[str]:
        """User codes that nobody has approved or denied yet."""
        with self._lock:
            return [d.user_code for d in self._devices.values() if d.state is DeviceState.PENDING]

    def redeem(self, device_code: str) -> dict[str, Any]:
        """A poll of the token endpoint.

        Raises:
            OAuthRefusal: ``authorization_pending``, ``slow_down``, ``expired_token``,
                ``access_denied`` or ``invalid_grant``.
        """
        now = self._clock()
        with self._lock:
            device = self._devices.get(device_code)
            if device is None or device.state is DeviceState.REDEEMED:
                raise OAuthRefusal("invalid_grant", _INVALID_GRANT)
            early = device.polled_at and now - device.polled_at < device.interval * _EARLY
            device.polled_at = now
            if early:
                device.interval += SLOW_DOWN_SECONDS
                raise OAuthRefusal("slow_down", "You are polling too fast")
            if now >= device.expires_at:
                raise OAuthRefusal("expired_token", "The device code has expired")
            if device.state is DeviceState.DENIED:
                raise OAuthRefusal("access_denied", "The request was denied")
            if device.state is DeviceState.PENDING:
                raise OAuthRefusal("authorization_pending", "The request is not approved yet")
            device.state = DeviceState.REDEEMED
            self.logins += 1
            return self._issue(now)

    def rotate(self, refresh_token: str) -> dict[str, Any]:
        """Spend a refresh token for a new pair.

        Raises:
            OAuthRefusal: ``invalid_grant``; a token that was spent before is counted.
        """
        with self._lock:
            if refresh_token in self._spent:
                self.replayed_refresh_tokens += 1
            if refresh_token not in self._refresh:
                raise OAuthRefusal("invalid_grant", _INVALID_GRANT)
            self._refresh.remove(refresh_token)
            self._spent.add(refresh_token)
            self.refreshes += 1
            return self._issue(self._clock())

    def issue(self, lifetime: float | None = None) -> dict[str, Any]:
        """A new pair without a login, as the token endpoint would answer it."""
        with self._lock:
            return self._issue(self._clock(), lifetime)

    def accepts(self, access_token: str) -> bool:
        """Whether this access token was issued here and has not expired."""
        with self._lock:
            return self._clock() < self._access.get(access_token, 0.0)

    def revoke_access(self) -> None:
        """Every access token is dead from now on; refresh tokens stay good."""
        with self._lock:
            self._access.clear()

    def revoke_logins(self) -> None:
        """Every access and refresh token is dead: people must log in again."""
        with self._lock:
            self._access.clear()
            self._refresh.clear()

    def _issue(self, now: float, lifetime: float | None = None) -> dict[str, Any]:
        lifetime = self.access_lifetime if lifetime is None else lifetime
        self._access = {token: end for token, end in self._access.items() if end > now}
        access, refresh = _jwt(now, now + lifetime, "access"), _jwt(now, None, "refresh")
        self._access[access] = now + lifetime
        self._refresh.add(refresh)
        return {
            "access_token": access,
            "refresh_token": refresh,
            "expires_in": _number(lifetime),
            "scope": SCOPE,
            "token_type": "Bearer",
        }


def _jwt(now: float, end: float | None, kind: str) -> str:
    """Looks like the real thing: three base64url parts. The last is random, nobody checks it."""
    claims: dict[str, Any] = {"iat": int(now), "scope": SCOPE, "type": kind}
    if end is not None:
        claims["exp"] = int(end)
    claims["jti"] = secrets.token_hex(8)
    parts = [
        json.dumps(part, separators=(",", ":")).encode()
        for part in ({"alg": "HS512", "typ": "JWT"}, claims)
    ]
    return ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode()
        for part in (*parts, secrets.token_bytes(48))
    )


def _number(seconds: float) -> int | float:
    return int(seconds) if seconds == int(seconds) else seconds
