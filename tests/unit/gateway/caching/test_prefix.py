from __future__ import annotations

import pytest

from runner.gateway.caching.prefix import Place, address_of, family_of, key_of, prefix_of
from runner.settings.models import shipped
from runner.settings.tables import CACHE_HOSTS

PLACE = Place("https://api.moonshot.cn/v1/caching", "f", "moonshot-v1")
SYSTEM = {"role": "system", "content": "be kind"}
USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "a", "parameters": {"type": "object"}}}


def key(*messages: object, tools: object = None, place: Place = PLACE) -> str:
    prefix = prefix_of({"messages": [*messages], "tools": tools})
    assert prefix is not None
    return key_of(place, prefix)


@pytest.mark.parametrize(
    "base",
    [
        "https://api.moonshot.cn/v1",
        "https://api.moonshot.cn/v1/",
        "HTTPS://API.Moonshot.CN/V1",
        "https://api.moonshot.cn",
        "https://api.moonshot.cn./v1",
    ],
)
def test_every_way_to_write_a_base_is_one_address_without_a_doubled_v1(base: str) -> None:
    assert address_of(base, CACHE_HOSTS) == "https://api.moonshot.cn/v1/caching"


def test_both_hosts_of_the_open_platform_offer_it_and_nobody_else() -> None:
    assert address_of("https://api.moonshot.ai/v1", CACHE_HOSTS) is not None
    for base in (
        "https://api.kimi.com/coding/v1",
        "https://api.moonshot.cn/anthropic",
        "https://api.moonshot.cn.example.com/v1",
        "https://example.com/v1?api.moonshot.cn",
        "https://api.moonshot.cn@example.com/v1",
        "ftp://api.moonshot.cn/v1",
        "https://api.moonshot.cn:port/v1",
        "",
    ):
        assert address_of(base, CACHE_HOSTS) is None, base


def test_a_host_may_be_listed_with_its_port_and_in_any_case() -> None:
    assert address_of("http://[::1]:8080/v1", ["[::1]:8080"]) == "http://[::1]:8080/v1/caching"
    assert address_of("http://Box:8080/v1", ["bOX:8080"]) == "http://box:8080/v1/caching"
    assert address_of("http://box:8080/v1", ["box"]) is not None
    assert address_of("http://box:8081/v1", ["box:8080"]) is None


def test_all_leading_system_messages_and_the_tools_are_cached() -> None:
    second = {"role": "system", "content": "more"}
    prefix = prefix_of({"messages": [SYSTEM, second, USER, SYSTEM], "tools": [TOOL]})
    assert prefix is not None
    assert prefix.messages == (SYSTEM, second)
    assert prefix.tools == (TOOL,)
    assert list(prefix.body) == ["messages", "tools"]


@pytest.mark.parametrize(
    "request_",
    [{}, {"messages": None}, {"messages": []}, {"messages": [USER, SYSTEM]}, {"messages": ["x"]}],
)
def test_without_leading_system_text_there_is_nothing_to_cache(request_: dict[str, object]) -> None:
    assert prefix_of(request_) is None


def test_what_comes_later_does_not_change_the_key() -> None:
    assert key(SYSTEM, USER) == key(SYSTEM, {"role": "user", "content": "else"}, USER)
    assert key(SYSTEM, tools=None) == key(SYSTEM, tools=[])


def test_every_difference_in_content_or_place_is_another_key() -> None:
    other = {"type": "function", "function": {"name": "b", "parameters": {"type": "object"}}}
    keys = [
        key(SYSTEM),
        key(SYSTEM, SYSTEM),
        key({"role": "system", "content": "be kind "}),
        key({"content": "be kind", "role": "system"}),
        key(SYSTEM, tools=[TOOL]),
        key(SYSTEM, tools=[TOOL, other]),
        key(SYSTEM, tools=[other, TOOL]),
        key(SYSTEM, place=Place(PLACE.address, "g", PLACE.family)),
        key(SYSTEM, place=Place(PLACE.address, "f", "kimi-k2.6")),
        key(SYSTEM, place=Place("https://api.moonshot.ai/v1/caching", "f", PLACE.family)),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("moonshot-v1-8k", "moonshot-v1"),
        ("moonshot-v1-128k", "moonshot-v1"),
        ("moonshot-v1-32k-vision-preview", "moonshot-v1"),
        ("moonshot-v1-auto", "moonshot-v1"),
        ("moonshot-v1", "moonshot-v1"),
        ("moonshot/kimi-k2.6", "kimi-k2.6"),
        ("kimi-k2.6-preview", "kimi-k2.6"),
        ("kimi-k2.7-code", "kimi-k2.7-code"),
    ],
)
def test_a_cache_is_made_for_the_family_and_not_for_a_size(model: str, family: str) -> None:
    assert family_of(model, shipped().find(model)) == family
