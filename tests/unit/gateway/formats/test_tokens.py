from __future__ import annotations

from hypothesis import given

from runner.gateway.formats import Json
from runner.gateway.formats.anthropic_request import to_chat
from runner.gateway.formats.tokens import IMAGE_TOKENS, estimate

from .strategies import anthropic_requests, properties


def request(*messages: Json) -> Json:
    return {"model": "m", "messages": list(messages)}


def test_text_counts_by_its_bytes() -> None:
    assert estimate(request({"role": "user", "content": "a" * 4000})) == 1000 + 4
    assert estimate(request({"role": "user", "content": "漢" * 400})) == 300 + 4


def test_an_image_has_one_price_whatever_its_bytes() -> None:
    url = "data:image/png;base64," + "A" * 100_000
    part = {"type": "image_url", "image_url": {"url": url}}
    assert estimate(request({"role": "user", "content": [part]})) == IMAGE_TOKENS + 4


@properties
@given(anthropic_requests())
def test_a_count_is_the_same_each_time_and_grows_with_the_conversation(body: Json) -> None:
    chat = to_chat(body)
    count = estimate(chat)
    assert estimate(to_chat(body)) == count
    more = [*chat["messages"], {"role": "user", "content": "and then?"}]
    assert estimate(chat | {"messages": more}) > count
