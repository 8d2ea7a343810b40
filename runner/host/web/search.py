"""A web search, by whichever engine the operator has chosen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runner.errors import ConfigError, PermanentError, TemporaryError
from runner.host.web.places import Places
from runner.settings.schema import Settings

MAX_QUERY = 500
MAX_RESULTS = 20
DEADLINE = 30.0
_SNIPPET = 1_000
_TITLE = 300
_URL = 2_000
_AT_ONCE = 4
_AT_ONCE_EACH = 2


@dataclass(frozen=True, slots=True)
class Found:
    """One result; ``date`` and ``snippet`` may be empty."""

    title: str
    url: str
    snippet: str
    date: str = ""


class Engine(Protocol):
    """A search service. Raises NanokimiError when it does not answer."""

    async def search(self, query: str, limit: int) -> list[Found]: ...


class Searcher:
    """Searches for all groups.

    Args:
        settings: those of now; ``[tools.web_search]`` and ``[services]`` are read.
        moonshot, duckduckgo: the engines.
    """

    def __init__(self, settings: Callable[[], Settings], moonshot: Engine, duckduckgo: Engine):
        self._settings = settings
        self._moonshot = moonshot
        self._duckduckgo = duckduckgo
        self._places = Places(_AT_ONCE, _AT_ONCE_EACH)

    async def search(
        self, query: str, max_results: int | None = None, *, group: str = ""
    ) -> list[Found]:
        """At most ``max_results``, else as many as the settings say; never more than 20.

        Raises:
            PermanentError: there is no query, or the service is not set up.
            TemporaryError: the service does not answer.
        """
        query = " ".join(query.split())
        if not 0 < len(query) <= MAX_QUERY:
            raise PermanentError(
                "the query is empty" if not query else f"the query is over {MAX_QUERY} characters",
                hint="search for a few words",
                code="bad_query",
            )
        settings = self._settings()
        limit = min(MAX_RESULTS, max(1, max_results or settings.tools.web_search.max_results))
        engine = self._moonshot if uses_moonshot(settings) else self._duckduckgo
        try:
            async with asyncio.timeout(DEADLINE), self._places.taken(group):
                found = await engine.search(query, limit)
        except TimeoutError:
            raise TemporaryError(
                f"the web search did not answer within {DEADLINE:.0f} s",
                hint="try again later",
                code="search_timeout",
            ) from None
        except ConfigError as e:
            # The operator's matter: where keys come from is not for a chat.
            raise PermanentError(
                "the web search is not set up",
                hint="the operator finds the reason in the log",
                code="search_not_set_up",
            ) from e
        return [_bounded(one) for one in found[:limit]]


def uses_moonshot(settings: Settings) -> bool:
    """Does Kimi's own search service answer? ``auto`` takes it when it is configured."""
    engine, service = settings.tools.web_search.engine, settings.services.moonshot_search
    configured = service is not None and bool(service.base_url)
    return engine == "moonshot" or (engine == "auto" and configured)


def _bounded(found: Found) -> Found:
    """A service is not trusted with the length of its answers."""
    return Found(
        found.title[:_TITLE], found.url[:_URL], found.snippet[:_SNIPPET], found.date[:_TITLE]
    )
