"""``web_search`` and ``web_fetch``: the public web for agents without a network."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from runner.host.credentials import Credentials
from runner.host.tools.tool import AnyTool, Arguments, Context, Tool
from runner.host.web.duckduckgo import DuckDuckGo
from runner.host.web.fetch import MAX_URL, PAGE_CHARS, Fetcher
from runner.host.web.frame import framed_page, framed_results
from runner.host.web.moonshot import Moonshot
from runner.host.web.reading import MAX_CHARS
from runner.host.web.search import MAX_QUERY, MAX_RESULTS, Searcher
from runner.settings.schema import Settings


class Question(Arguments):
    query: str = Field(min_length=1, max_length=MAX_QUERY, description="What to search for.")
    max_results: int | None = Field(
        None, ge=1, le=MAX_RESULTS, description="How many results; leave it out as a rule."
    )


class Address(Arguments):
    url: str = Field(min_length=1, max_length=MAX_URL, description="An http or https URL.")
    offset: int = Field(
        0, ge=0, le=MAX_CHARS, description="Where to read on, in characters of the page's text."
    )


class WebSearch(Tool[Question]):
    name = "web_search"
    description = (
        "Search the web. Gives titles, addresses and summaries; web_fetch reads a whole page."
    )
    arguments = Question
    table = "web_search"
    looks = True

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    async def call(self, context: Context, arguments: Question) -> str:
        found = await self._searcher.search(
            arguments.query, arguments.max_results, group=context.group
        )
        return framed_results(arguments.query, found)


class WebFetch(Tool[Address]):
    name = "web_fetch"
    description = (
        "Read a page of the public web as text: HTML (as Markdown), plain text, JSON or XML. "
        f"At most {PAGE_CHARS} characters come at once; offset reads on."
    )
    arguments = Address
    table = "web_fetch"
    looks = True

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    async def call(self, context: Context, arguments: Address) -> str:
        page = await self._fetcher.fetch(arguments.url, arguments.offset, group=context.group)
        return framed_page(page)


class Web:
    """Both tools, for all groups; ``settings`` are those of now."""

    def __init__(self, settings: Callable[[], Settings], credentials: Credentials) -> None:
        self._duckduckgo = DuckDuckGo()
        searcher = Searcher(settings, Moonshot(settings, credentials), self._duckduckgo)
        fetcher = Fetcher(lambda: settings().tools.web_fetch)
        self.tools: tuple[AnyTool, ...] = (WebSearch(searcher), WebFetch(fetcher))

    def close(self) -> None:
        """No more searches."""
        self._duckduckgo.close()
