"""The bundled demo provider: Kimi's chat API and OAuth device flow on loopback, and strict.

It lets people see the whole product without an account, and it is what the tests talk to, so it
refuses what the real service refuses. Standalone it prints where it listens as one JSON line::

    python -m runner.demo.provider [--host H] [--port P] [--access-lifetime SECONDS]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from runner.demo.caching import ContextCaches
from runner.demo.chat_server import ChatServer
from runner.demo.control import Control
from runner.demo.faults import Faults
from runner.demo.oauth_server import OAuthServer
from runner.demo.oauth_state import OAuthState
from runner.demo.records import Record, Recording, Records
from runner.demo.search_server import SearchServer
from runner.errors import TemporaryError

_THREAD = "demo-provider"
_START_DEADLINE = 10.0
_STOP_DEADLINE = 10.0


class DemoProvider:
    """Runs in its own thread with its own event loop, so a busy caller does not slow it.

    Use as ``async with DemoProvider() as provider:`` or call :meth:`start` and :meth:`stop`.
    All methods are thread-safe.

    Args:
        host, port: where to listen; port 0 takes a free one.
        access_lifetime: seconds an access token lives.
        device_lifetime: seconds a device login may take.
        poll_interval: seconds between polls that a login is told to keep.
        require_auth: refuse chat requests without a valid token or key.
        auto_approve: approve device logins at once.
        caching: whether the open platform offers explicit context caching.
        clock: Unix seconds, for the ages of tokens.

    Attributes:
        faults: what goes wrong next, see :class:`~runner.demo.faults.Fault`.
        caches: the context caches of the open platform.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        access_lifetime: float = 900.0,
        device_lifetime: float = 600.0,
        poll_interval: float = 1.0,
        require_auth: bool = True,
        auto_approve: bool = True,
        caching: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.faults = Faults()
        self.caches = ContextCaches(clock)
        self._address = (host, port)
        self._oauth = OAuthState(
            clock=clock,
            access_lifetime=access_lifetime,
            device_lifetime=device_lifetime,
            poll_interval=poll_interval,
            auto_approve=auto_approve,
        )
        self._clock = clock
        self._records = Records()
        self._chat = ChatServer(
            self._oauth,
            self.faults,
            require_auth=require_auth,
            caches=self.caches if caching else None,
        )
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.stop)

    def start(self) -> None:
        """Listen and serve; returns when the server answers.

        Raises:
            OSError: the address cannot be taken.
            TemporaryError: the server did not come up in 10 seconds.
        """
        logging.getLogger("uvicorn.error").addFilter(_expected)
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Named, the protocol makes the event loop switch Nagle's delay off.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
        self._address = (host, listener.getsockname()[1])
        app = Starlette(
            routes=[
                *self._chat.routes(),
                *OAuthServer(self._oauth, self.faults).routes(),
                *SearchServer(self._chat.refuse, self.faults).routes(),
                *Control(self).routes(),
            ],
            middleware=[Middleware(Recording, records=self._records)],
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=0,
            timeout_keep_alive=60,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name=_THREAD, daemon=True
        )
        self._thread.start()
        if not self._server.up.wait(_START_DEADLINE):
            raise TemporaryError(
                f"the demo provider did not start in {_START_DEADLINE:.0f} s", hint="try again"
            )

    def stop(self) -> None:
        """Stop serving; open connections are dropped. Safe to call twice."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(_STOP_DEADLINE)

    @property
    def oauth_host(self) -> str:
        """``http://HOST:PORT``, the base of the OAuth endpoints."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def base_url(self) -> str:
        """Base of the Kimi Code API: ``…/coding/v1``."""
        return f"{self.oauth_host}/coding/v1"

    @property
    def open_platform_url(self) -> str:
        """Base of the open platform's API, for API keys: ``…/v1``."""
        return f"{self.oauth_host}/v1"

    @property
    def requests(self) -> list[Record]:
        """The last 5,000 requests in their order, running ones too; ``/_demo`` is left out."""
        return self._records.all()

    def chats(self) -> list[Record]:
        """The requests for chat completions among :attr:`requests`."""
        return [r for r in self.requests if r.path.endswith("/chat/completions")]

    def clear_requests(self) -> None:
        self._records.clear()

    async def wait_for(
        self, ready: Callable[[list[Record]], bool], timeout: float = 10.0
    ) -> list[Record]:
        """Wait until ``ready(requests)`` holds. It runs in other threads: keep it pure.

        Raises:
            TimeoutError: not within ``timeout`` seconds.
        """
        return await asyncio.to_thread(self._records.wait_for, ready, timeout)

    def issue_token(self, lifetime: float | None = None) -> str:
        """A fresh access token, good for ``lifetime`` seconds (default: ``access_lifetime``)."""
        return str(self._oauth.issue(lifetime)["access_token"])

    def issue_login(self, lifetime: float | None = None) -> dict[str, Any]:
        """A fresh login in the format of the token file (``kimi-code.json``)."""
        answer = self._oauth.issue(lifetime)
        return {
            "access_token": answer["access_token"],
            "refresh_token": answer["refresh_token"],
            "expires_at": self._clock() + answer["expires_in"],
            "scope": answer["scope"],
            "token_type": answer["token_type"],
        }

    def add_api_key(self, key: str) -> None:
        """Accept this API key on both bases."""
        self._chat.add_api_key(key)

    def approve(self, user_code: str) -> bool:
        """A person approves the device login; ``False`` when none waits under this code."""
        return self._oauth.decide(user_code, approve=True)

    def deny(self, user_code: str) -> bool:
        """A person denies the device login; ``False`` when none waits under this code."""
        return self._oauth.decide(user_code, approve=False)

    def revoke_access(self) -> None:
        """Every access token is dead from now on; refresh tokens stay good."""
        self._oauth.revoke_access()

    def revoke_logins(self) -> None:
        """Every access and refresh token is dead: people must log in again."""
        self._oauth.revoke_logins()

    @property
    def waiting_codes(self) -> list[str]:
        """User codes of device logins that wait for a person."""
        return self._oauth.waiting_codes()

    @property
    def logins(self) -> int:
        """Device logins that were redeemed."""
        return self._oauth.logins

    @property
    def refreshes(self) -> int:
        """Refresh tokens that were spent."""
        return self._oauth.refreshes

    @property
    def replayed_refresh_tokens(self) -> int:
        """Times that a spent refresh token came back: each would be a lost login."""
        return self._oauth.replayed_refresh_tokens


class _Server(uvicorn.Server):
    """Says when it is up. Off the main thread uvicorn installs no signal handlers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


def _expected(record: logging.LogRecord) -> bool:
    """Broken answers and dropped connections are this server's work: only bugs are worth a line."""
    return record.threadName != _THREAD or record.exc_info is not None


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m runner.demo.provider", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--access-lifetime", type=float, default=900.0, metavar="SECONDS")
    parser.add_argument("--poll-interval", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--no-auth", action="store_true", help="let everybody in")
    parser.add_argument(
        "--no-auto-approve", action="store_true", help="device logins wait for a person"
    )
    parser.add_argument("--api-key", action="append", default=[], metavar="KEY")
    args = parser.parse_args(argv)
    provider = DemoProvider(
        args.host,
        args.port,
        access_lifetime=args.access_lifetime,
        poll_interval=args.poll_interval,
        require_auth=not args.no_auth,
        auto_approve=not args.no_auto_approve,
    )
    for key in args.api_key:
        provider.add_api_key(key)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    provider.start()
    where = {"base_url": provider.base_url, "oauth_host": provider.oauth_host}
    sys.stdout.write(json.dumps(where) + "\n")
    sys.stdout.flush()
    stop.wait()
    provider.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
