"""A way to the public internet that cannot be led anywhere else.

A name is resolved once, every address it has is checked, and the connection goes to one of those:
a second look-up by the HTTP library could find another address (DNS rebinding). Proxies of the
environment are never used: a proxy resolves names itself, past every check.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from runner.errors import NanokimiError, PermanentError, TemporaryError
from runner.host.web.address import why_closed

_WEB_PORTS = (80, 443)
_PRIVILEGED = 1024
_MAX_ADDRESSES = 4
_DISCARD = 9

# A stranger's name server that is silent holds a thread for many seconds: not one of those in which
# the names of providers and receivers are looked up.
_lookups = ThreadPoolExecutor(8, thread_name_prefix="web-lookup")


class CheckedTransport(httpx.AsyncBaseTransport):
    """Sends a request to an address that was checked, with the name for ``Host`` and TLS kept.

    Args:
        allow_private: addresses of this machine and its networks may be called, too.
    """

    def __init__(self, *, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        # HTTP/1.1 and a fresh connection each time: none is ever reused for another name.
        self._inner = httpx.AsyncHTTPTransport(
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See the base class.

        Raises:
            PermanentError: ``address_not_allowed``.
            TemporaryError: ``host_unknown``.
            httpx.HTTPError: no address of it answers.
        """
        host = request.url.raw_host.decode("ascii")
        addresses = await resolve(host, _port(request.url), allow_private=self._allow_private)
        failed: httpx.HTTPError | None = None
        for address in addresses[:_MAX_ADDRESSES]:
            try:
                return await self._inner.handle_async_request(_addressed(request, host, address))
            except (httpx.ConnectError, httpx.ConnectTimeout) as e:
                failed = e
        assert failed is not None
        raise failed

    async def aclose(self) -> None:
        """Drop the connection."""
        await self._inner.aclose()


async def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of a name; all of them may be called.

    Raises:
        PermanentError: ``address_not_allowed``, when one of them may not.
        TemporaryError: ``host_unknown``, when there are none.
    """
    if port < _PRIVILEGED and port not in _WEB_PORTS:
        raise PermanentError(
            f"port {port} is not one of the web",
            hint="use 80, 443, or a port from 1024 on",
            code="address_not_allowed",
        )
    try:
        found = await asyncio.get_running_loop().run_in_executor(_lookups, _look_up, host, port)
    except (OSError, UnicodeError):
        raise _unknown(host) from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses:
        raise _unknown(host)
    for address in addresses:
        closed = why_closed(address, allow_private=allow_private)
        if not closed and not allow_private and is_own(address):
            closed = "an address of this machine"
        if closed:
            raise PermanentError(
                f"{host} is {closed}",
                hint="only pages of the public internet can be fetched",
                code="address_not_allowed",
            )
    return addresses


def _look_up(host: str, port: int) -> list[tuple[Any, ...]]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def is_own(address: str) -> bool:
    """Does this machine have the address? A packet to it would go out from it; none is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _DISCARD))
            own = probe.getsockname()[0]
    except OSError:
        return False
    return ipaddress.ip_address(own) == ipaddress.ip_address(address)


def _addressed(request: httpx.Request, host: str, address: str) -> httpx.Request:
    """The same request, to the address. Its ``Host`` header was made from the name."""
    extensions = dict(request.extensions)
    if request.url.scheme == "https" and host != address:
        extensions["sni_hostname"] = host.rstrip(".")
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions=extensions,
    )


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _unknown(host: str) -> NanokimiError:
    return TemporaryError(
        f"the host {host} is not known",
        hint="check how the address is written",
        code="host_unknown",
    )
