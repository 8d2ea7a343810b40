"""The two languages of model APIs, each way, streamed or not. Pure: no I/O, no clock.

Inside, the gateway speaks OpenAI chat completions, because that is what Kimi speaks; Anthropic
messages are translated at the edges, and only where the two sides differ.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
"""A JSON object as it came or will go; functions here return new ones and never change theirs."""
