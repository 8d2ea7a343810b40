"""A request as one candidate is to get it, in the inner language. Pure and byte-stable.

What a person said comes first: the request's own value, else the route's, else the entry's. Only
limits are different: the smallest one counts.
"""

from __future__ import annotations

import hashlib

import msgspec

from runner.gateway.formats import Json
from runner.gateway.routing import Route
from runner.gateway.targets import Target

_LIMITS = ("max_completion_tokens", "max_tokens")


def shape(request: Json, target: Target, route: Route | None = None) -> Json:
    """The request with the target's model id, the route's prompt, defaults, limits and extras.

    What a model family asks for beyond that is the business of the family's rules, later.
    """
    shaped = {**request, "model": target.model}
    if route is not None and route.prompt:
        messages = request.get("messages")
        told = {"role": "system", "content": route.prompt}
        shaped["messages"] = [told, *(messages if isinstance(messages, list) else [])]
    if request.get("temperature") is None:
        temperature = target.temperature
        if route is not None and route.temperature is not None:
            temperature = route.temperature
        if temperature is not None:
            shaped["temperature"] = temperature
    _limit(shaped, target, route)
    if not target.streaming and shaped.pop("stream", False):
        shaped.pop("stream_options", None)
    return {**shaped, **target.extra_body}


def _limit(shaped: Json, target: Target, route: Route | None) -> None:
    asked = [shaped.pop(name, None) for name in _LIMITS if name in shaped]
    limits = [*asked, target.max_tokens, route.max_tokens if route else None]
    numbers = [n for n in limits if isinstance(n, int) and not isinstance(n, bool)]
    if numbers:
        shaped[target.max_tokens_field or "max_tokens"] = min(numbers)


def session_of(request: Json, group: str = "") -> str:
    """What names a conversation, so that all its calls meet the same prefix cache.

    The client's own word (``prompt_cache_key``, ``user``) if there is one, else the beginning of
    the conversation: the system text and the first message that is not one.
    """
    for name in ("prompt_cache_key", "user"):
        if isinstance(value := request.get(name), str) and value:
            return f"{group}\n{value}"
    messages = request.get("messages")
    beginning: list[object] = []
    for message in messages if isinstance(messages, list) else []:
        beginning.append(message)
        if not (isinstance(message, dict) and message.get("role") in ("system", "developer")):
            break
    if not beginning:
        return ""
    digest = hashlib.blake2b(msgspec.json.encode(beginning), digest_size=16)
    return f"{group}\n{digest.hexdigest()}"
