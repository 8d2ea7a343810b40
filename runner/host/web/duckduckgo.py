"""DuckDuckGo, by the ``ddgs`` library: https://pypi.org/project/ddgs/ .

The library is not asynchronous, so it runs in threads of its own: a hanging search takes one of a
few, and none of the host's. It says "No results found." also when DuckDuckGo refused to answer.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from runner.errors import TemporaryError
from runner.host.web.search import Found

log = structlog.get_logger()

TIMEOUT = 10
_THREADS = 4
_NOTHING = "No results found."


class DuckDuckGo:
    """The engine. ``timeout`` is seconds for one request."""

    def __init__(self, timeout: int = TIMEOUT) -> None:
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="duckduckgo")

    def close(self) -> None:
        """No more searches; those under way end by their timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def search(self, query: str, limit: int) -> list[Found]:
        """See :class:`~runner.host.web.search.Engine`.

        Raises:
            TemporaryError: DuckDuckGo does not answer, or says not now.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._search, query, limit)

    def _search(self, query: str, limit: int) -> list[Found]:
        # The import costs a tenth of a second, and only a search needs it.
        from ddgs import DDGS
        from ddgs.exceptions import DDGSException, RatelimitException, TimeoutException

        try:
            rows = DDGS(timeout=self._timeout).text(query, max_results=limit, backend="duckduckgo")
        except TimeoutException:
            raise _failed("DuckDuckGo did not answer in time", "search_timeout") from None
        except RatelimitException:
            raise _failed("DuckDuckGo has had too many searches", "search_rate_limited") from None
        except DDGSException as e:
            if str(e) == _NOTHING:
                return []
            log.warning("search.failed", engine="duckduckgo", error=str(e)[:300])
            raise _failed("DuckDuckGo cannot be reached", "search_failed") from None
        return [found for row in rows if (found := _found(row)) is not None]


def _found(row: dict[str, Any]) -> Found | None:
    url = str(row.get("href") or "")
    if not url.startswith(("http://", "https://")):
        return None
    return Found(str(row.get("title") or url), url, str(row.get("body") or ""))


def _failed(text: str, code: str) -> TemporaryError:
    return TemporaryError(text, hint="try again later", code=code)
