"""Kimi Code's search service at the demo provider: a few made-up pages, and strict requests.

The protocol is kimi-cli's (``tools/web/search.py``). Unlike the real service it finds the same for
everybody: what it answers repeats the query, so that a test sees its words come back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from runner.demo import rules
from runner.demo.answer import body_answer, json_answer
from runner.demo.faults import Fault, Faults

MAX_LIMIT = 20
_PAGES = 30

Refuse = Callable[[Request, Fault | None], Response | None]


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    text_query: Annotated[str, msgspec.Meta(min_length=1)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
    enable_page_crawling: bool
    timeout_seconds: Annotated[int, msgspec.Meta(ge=1)]


class SearchServer:
    """``POST /coding/v1/search``; ``refuse`` judges the client and its credential."""

    def __init__(self, refuse: Refuse, faults: Faults) -> None:
        self._refuse = refuse
        self._faults = faults

    def routes(self) -> list[BaseRoute]:
        return [Route("/coding/v1/search", self._search, methods=["POST"])]

    async def _search(self, request: Request) -> Response:
        fault = self._faults.take("search")
        if refusal := self._refuse(request, fault):
            return refusal
        if not request.headers.get("x-msh-tool-call-id"):
            error = rules.invalid("the header X-Msh-Tool-Call-Id is missing")
            return body_answer(error.body(), status=error.status)
        try:
            asked = msgspec.json.decode(await request.body(), type=_Asked)
        except msgspec.MsgspecError as e:
            error = rules.invalid(str(e))
            return body_answer(error.body(), status=error.status)
        found = [_page(number, asked) for number in range(1, min(asked.limit, _PAGES) + 1)]
        return json_answer({"search_results": found}, fault=fault)


def _page(number: int, asked: _Asked) -> dict[str, str]:
    """Its fields are those of the real service; which of them are empty, too."""
    return {
        "site_name": "Example",
        "title": f"Page {number} about {asked.text_query}",
        "url": f"https://example.com/{number}",
        "snippet": f"What page {number} says about {asked.text_query}.",
        "content": "The whole page." if asked.enable_page_crawling else "",
        "date": "2026-11-01" if number % 2 else "",
        "icon": "",
        "mime": "text/html",
    }
