"""Login by the device flow: a code, a URL, and polling until a person said yes.

https://www.rfc-editor.org/rfc/rfc8628
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from runner.errors import NanokimiError, PermanentError, TemporaryError
from runner.oauth.endpoint import CLIENT_ID, Failed, Refused, check_host, post_form
from runner.oauth.tokens import Seconds, Token, TokenAnswer, TokenSet

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
SLOW_DOWN = 5.0
MIN_INTERVAL = 0.01
MAX_INTERVAL = 60.0
MAX_LOGIN = 3_600.0
START_ATTEMPTS = 3
START_BACKOFF = 0.3
_AGAIN = "run `nanokimi login` again"


def _printable(text: str) -> str:
    """It is shown in a terminal: no control characters."""
    if not text.isascii() or not text.isprintable():
        raise ValueError("has characters that cannot be shown")
    return text


def _link(text: str) -> str:
    if not text.startswith(("https://", "http://")):
        raise ValueError("is not a web address")
    return text


_Shown = Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(_printable)]
_Link = Annotated[_Shown, AfterValidator(_link)]


class _DeviceAnswer(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    device_code: Token
    user_code: _Shown
    verification_uri: _Link
    verification_uri_complete: _Link | None = None
    expires_in: Seconds
    interval: Seconds = 5.0


@dataclass(frozen=True, slots=True)
class DevicePrompt:
    """What a person needs: open ``verification_uri_complete``, or enter ``user_code``.

    ``expires_in`` is in seconds from now.
    """

    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Poll again after ``interval`` seconds."""

    interval: float


def decide_poll(
    answer: TokenAnswer | Refused | Failed, interval: float
) -> TokenAnswer | Wait | NanokimiError:
    """What an answer of the token endpoint means while a login waits (RFC 8628 §3.5)."""
    match answer:
        case TokenAnswer():
            return answer
        case Failed(retry_after=after):
            return Wait(min(max(interval, after or 0.0), MAX_INTERVAL))
        case Refused(error="authorization_pending"):
            return Wait(interval)
        case Refused(error="slow_down"):
            return Wait(min(interval + SLOW_DOWN, MAX_INTERVAL))
        case Refused(error="expired_token"):
            return _expired()
        case Refused(error="access_denied"):
            return PermanentError("the login was denied", hint=_AGAIN, code="login_denied")
        case Refused(status=status, error=error):
            return PermanentError(
                f"the login was refused: {error} (HTTP {status})", hint=_AGAIN, code="login_refused"
            )


def _expired() -> PermanentError:
    return PermanentError("the login was not approved in time", hint=_AGAIN, code="login_expired")


async def login(
    provider_host: str,
    *,
    on_prompt: Callable[[DevicePrompt], None],
    client: httpx.AsyncClient,
    headers: Mapping[str, str],
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> TokenSet:
    """Log in; ``on_prompt`` is called once, with what to show. Nothing is saved here.

    Cancel it to give up. Network failures in between are waited out until the code expires.

    Args:
        provider_host: base URL of the OAuth server.
        headers: see :func:`runner.oauth.headers.client_headers`.
        clock: Unix seconds. ``sleep``: how to wait between polls.

    Raises:
        ConfigError: the host is not a safe URL.
        TemporaryError: the server could not be reached at the start.
        PermanentError: denied, expired or refused.
    """
    host = check_host(provider_host)
    start = await _start(host, client, headers, sleep)
    on_prompt(
        DevicePrompt(
            user_code=start.user_code,
            verification_uri=start.verification_uri,
            verification_uri_complete=start.verification_uri_complete or start.verification_uri,
            expires_in=start.expires_in,
        )
    )
    form = {
        "client_id": CLIENT_ID,
        "device_code": start.device_code.get_secret_value(),
        "grant_type": DEVICE_GRANT,
    }
    interval = min(max(start.interval, MIN_INTERVAL), MAX_INTERVAL)
    try:
        async with asyncio.timeout(min(start.expires_in, MAX_LOGIN)):
            while True:
                await sleep(interval)
                now = clock()
                answer = await post_form(
                    client, f"{host}/api/oauth/token", form, headers, TokenAnswer
                )
                match decide_poll(answer, interval):
                    case TokenAnswer() as granted:
                        return granted.tokens(now)
                    case Wait(longer):
                        interval = longer
                    case NanokimiError() as error:
                        raise error
    except TimeoutError:
        raise _expired() from None


async def _start(
    host: str,
    client: httpx.AsyncClient,
    headers: Mapping[str, str],
    sleep: Callable[[float], Awaitable[None]],
) -> _DeviceAnswer:
    url = f"{host}/api/oauth/device_authorization"
    for attempt in range(1, START_ATTEMPTS + 1):
        match await post_form(client, url, {"client_id": CLIENT_ID}, headers, _DeviceAnswer):
            case _DeviceAnswer() as answer:
                return answer
            case Refused(status=status, error=error):
                raise PermanentError(
                    f"{host} refused to start a login: {error} (HTTP {status})",
                    hint="check the OAuth host and update nanokimi",
                    code="login_refused",
                )
            case Failed(why=why, retry_after=after):
                if attempt < START_ATTEMPTS:
                    await sleep(min(after or START_BACKOFF * attempt, MAX_INTERVAL))
    raise TemporaryError(f"{host} cannot be reached: {why}", hint="check the network and try again")
