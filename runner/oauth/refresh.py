"""Spending a refresh token for a new pair: retries, and what the server's answer means."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

import httpx
import structlog

from runner.errors import PermanentError, TemporaryError
from runner.oauth.endpoint import CLIENT_ID, Failed, Refused, check_host, post_form
from runner.oauth.tokens import TokenAnswer, TokenSet

ATTEMPTS = 4
FIRST_BACKOFF = 0.2
MAX_BACKOFF = 5.0

log = structlog.get_logger(__name__)


class GrantRefusedError(PermanentError):
    """The provider will never take this refresh token again.

    ``after_lost_answer`` says that an earlier answer did not reach us: the provider may have
    handed out a new pair that nobody got.
    """

    code = "grant_refused"

    def __init__(self, refusal: Refused, *, after_lost_answer: bool) -> None:
        super().__init__(f"the provider refused the refresh token: {refusal.error}")
        self.after_lost_answer = after_lost_answer


def backoff(attempt: int, wish: float | None, chance: float) -> float | None:
    """Seconds to wait after failed attempt number ``attempt`` (from 1); ``None`` gives up.

    ``chance`` in 0..1 spreads the waits of many clients; the server's ``wish`` counts when it is
    short enough to be waited for here.
    """
    if attempt >= ATTEMPTS or (wish or 0.0) > MAX_BACKOFF:
        return None
    own: float = FIRST_BACKOFF * 3 ** (attempt - 1) * (0.5 + chance)
    return min(max(own, wish or 0.0), MAX_BACKOFF)


class ProviderSilentError(TemporaryError):
    """The OAuth server gave no usable answer."""

    code = "oauth_unavailable"


class RefreshClient:
    """The refresh grant (RFC 6749 §6) of one OAuth server.

    Args:
        host: base URL of the OAuth server.
        headers: see :func:`runner.oauth.headers.client_headers`.
        clock: Unix seconds.

    Raises:
        ConfigError: the host is not a safe URL.
    """

    def __init__(
        self,
        host: str,
        client: httpx.AsyncClient,
        headers: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._host = check_host(host)
        self._client = client
        self._headers = headers
        self._clock = clock

    async def refresh(self, old: TokenSet, on_failure: Callable[[str], None]) -> TokenSet:
        """A new pair for ``old``, whose refresh token is spent by this.

        Transient failures are tried again three times; ``on_failure`` hears of each.

        Raises:
            GrantRefusedError: the login is dead.
            PermanentError: the server refused the request itself.
            ProviderSilentError: no usable answer; ``retry_after`` is the server's wish.
        """
        form = {
            "client_id": CLIENT_ID,
            "grant_type": "refresh_token",
            "refresh_token": old.refresh_token.get_secret_value(),
        }
        answer_lost = False
        attempt = 0
        while True:
            attempt += 1
            now = self._clock()
            answer = await post_form(
                self._client, f"{self._host}/api/oauth/token", form, self._headers, TokenAnswer
            )
            match answer:
                case TokenAnswer():
                    return answer.tokens(now, old)
                case Refused() if answer.definitive:
                    raise GrantRefusedError(answer, after_lost_answer=answer_lost)
                case Refused(status=status, error=error):
                    raise PermanentError(
                        f"{self._host} refused to renew the login: {error} (HTTP {status})",
                        hint="check the OAuth host and update nanokimi",
                        code="oauth_refused",
                    )
                case Failed(why=why, maybe_done=maybe_done, retry_after=wish):
                    answer_lost = answer_lost or maybe_done
                    log.warning("oauth.refresh_failed", attempt=attempt, why=why)
                    on_failure(why)
                    wait = backoff(attempt, wish, random.random())  # noqa: S311  not for secrets
                    if wait is None:
                        raise ProviderSilentError(
                            f"{self._host} did not renew the login: {why}",
                            hint="it is tried again with the next message",
                            retry_after=wish,
                        )
                    await asyncio.sleep(wait)
