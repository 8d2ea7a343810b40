"""What a served host tells of a group, read as any client reads it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from served import Served

from runner.api.client import group_path


async def until(
    host: Served, group: str, kind: str, **holds: Any
) -> list[tuple[str, dict[str, Any]]]:
    """The group's events from the beginning up to the first of this kind that ``holds`` these."""
    found: list[tuple[str, dict[str, Any]]] = []
    headers = {"authorization": f"Bearer {host.token}", "last-event-id": "0"}
    async with (
        asyncio.timeout(60),
        httpx.AsyncClient(base_url=host.url, headers=headers, timeout=60) as client,
        client.stream("GET", f"{group_path(group)}/events") as stream,
    ):
        name = ""
        async for line in stream.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data = json.loads(value)
                found.append((name, data))
                if name == kind and holds.items() <= data.items():
                    return found
    raise AssertionError(found)
