"""Names to candidates: entries, spellings, pools, stickiness, fallbacks, retired names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import USER_AGENT
from runner.errors import ConfigError
from runner.gateway.failure import GatewayFailure
from runner.gateway.routing import Plan, Router, balanced, build_router, in_rollout
from runner.gateway.targets import Target

from .conftest import Route, entry, settings_of


def plan(router: Router, name: str, **how: object) -> Plan:
    found = router.resolve(name, **how)  # type: ignore[arg-type]  # passed through as they are
    assert isinstance(found, Plan), found
    return found


def first(router: Router, name: str) -> Target:
    return plan(router, name).candidates[0].target


def names(found: Plan) -> list[str]:
    return [candidate.target.name for candidate in found.candidates]


# -- entries --------------------------------------------------------------------------------------


def test_every_field_of_an_entry_reaches_its_target(route: Route) -> None:
    target = first(
        route(
            entry(
                "full",
                "openai/gpt-4o",
                api_base='"https://gw.example.org/v1/"',
                format='"openai"',
                proxy='"http://localhost:7890"',
                user_agent='"mine/1"',
                custom_headers='{ X-Team = "a" }',
                extra_body="{ top_k = 5, deep = { er = [1] } }",
                rpm="100",
                request_timeout='"90s"',
                cooldown='"2m"',
                thinking_level='"high"',
                temperature="0.7",
                max_tokens="8192",
                max_tokens_field='"max_tokens"',
                streaming="false",
            )
        ),
        "full",
    )
    assert (target.name, target.provider, target.vendor) == ("full", "openai", "openai")
    assert (target.kind, target.format, target.model) == ("openai", "openai", "gpt-4o")
    assert target.url == "https://gw.example.org/v1/chat/completions"
    assert target.credential.secret.reveal() == "sk-full"
    assert (target.proxy, target.user_agent) == ("http://localhost:7890", "mine/1")
    assert dict(target.headers) == {"X-Team": "a"}
    assert dict(target.extra_body) == {"top_k": 5, "deep": {"er": [1]}}
    assert (target.rpm, target.request_timeout, target.cooldown) == (100, 90.0, 120.0)
    assert (target.thinking_level, target.temperature) == ("high", 0.7)
    assert (target.max_tokens, target.max_tokens_field) == (8192, "max_tokens")
    assert not target.streaming


@pytest.mark.parametrize(
    ("model", "fields", "url", "upstream", "kind"),
    [
        ("kimi-code/k3", {}, "https://api.kimi.com/coding/v1/chat/completions", "k3", "kimi"),
        ("kimi_code/k3", {}, "https://api.kimi.com/coding/v1/chat/completions", "k3", "kimi"),
        ("k3", {}, "https://api.kimi.com/coding/v1/chat/completions", "k3", "kimi"),
        ("moonshot/kimi-k3", {}, "https://api.moonshot.cn/v1/chat/completions", "kimi-k3", "kimi"),
        ("kimi-k2.6", {}, "https://api.moonshot.cn/v1/chat/completions", "kimi-k2.6", "kimi"),
        ("openai/gpt-4o", {}, "https://api.openai.com/v1/chat/completions", "gpt-4o", "openai"),
        ("gpt-4o", {"provider": '"openai"'}, "https://api.openai.com/v1/chat/completions",
         "gpt-4o", "openai"),
        ("anthropic/claude-x", {}, "https://api.anthropic.com/v1/messages", "claude-x",
         "anthropic"),
        ("openrouter/meta/llama", {}, "https://openrouter.ai/api/v1/chat/completions",
         "meta/llama", "openai"),
        ("meta/llama", {"api_base": '"http://127.0.0.1:9/v1"'},
         "http://127.0.0.1:9/v1/chat/completions", "meta/llama", "openai"),
        ("moonshot/kimi-k3", {"api_base": '"https://api.moonshot.ai/anthropic"'},
         "https://api.moonshot.ai/anthropic/v1/messages", "kimi-k3", "kimi"),
        ("x", {"api_base": '"https://relay.example.org/v1"', "format": '"anthropic"'},
         "https://relay.example.org/v1/messages", "x", "anthropic"),
        ("zenmux/kimi", {}, "https://zenmux.ai/api/anthropic/v1/messages", "kimi", "anthropic"),
    ],
)  # fmt: skip
def test_a_model_string_says_where_and_what_to_ask(
    route: Route, model: str, fields: dict[str, object], url: str, upstream: str, kind: str
) -> None:
    target = first(route(entry("e", model, **fields)), "e")
    assert (target.url, target.model, target.kind) == (url, upstream, kind)


def test_an_entry_may_borrow_a_provider_of_the_config(route: Route) -> None:
    text = """
[providers.house]
type = "anthropic"
base_url = "https://house.example.org/anthropic"
api_key = "sk-house"
custom_headers = { X-A = "1", X-B = "2" }
"""
    fields = {"provider": '"house"', "api_key": '""', "custom_headers": '{ X-B = "3" }'}
    target = first(route(text + entry("e", "some/model", **fields)), "e")
    assert target.url == "https://house.example.org/anthropic/v1/messages"
    assert (target.provider, target.model, target.format) == ("house", "some/model", "anthropic")
    assert target.credential.secret.reveal() == "sk-house"
    assert dict(target.headers) == {"X-A": "1", "X-B": "3"}


def test_the_list_says_more_of_a_key_than_the_tables_of_kimi_cli(route: Route) -> None:
    text = entry("kimi", "kimi-code/kimi-coding", api_key='""', auth='"oauth"', rpm="7")
    (candidate,) = plan(route(text), "kimi").candidates
    assert (candidate.target.rpm, candidate.target.context) == (7, 200_000)


def test_a_login_serves_entries_of_kimi_code(route: Route) -> None:
    target = first(route(entry("e", "kimi-code/k3", api_key='""', auth='"oauth"')), "e")
    assert target.credential.oauth is not None
    assert target.credential.oauth.key == "oauth/kimi-code"


def test_models_of_kimi_cli_are_entries_too(route: Route) -> None:
    target = first(route(), "kimi")
    assert (target.provider, target.vendor) == ("managed:kimi-code", "kimi-code")
    assert target.credential.oauth is not None
    assert target.context == 200_000
    assert target.user_agent == USER_AGENT


def test_an_entry_that_is_off_or_has_no_key_is_left_out_and_says_so(route: Route) -> None:
    router = route(
        entry("off", "openai/a", enabled="false", api_key='""')
        + entry("unset", "openai/b", api_key='"env:NOT_SET"')
    )
    assert set(router.targets.disabled) == {"off", "unset"}
    assert "NOT_SET" in router.targets.disabled["unset"]
    for name in ("off", "unset"):
        failure = router.resolve(name)
        assert isinstance(failure, GatewayFailure)
        assert failure.status == 404
        assert "NOT_SET" not in failure.message


def test_one_key_that_is_missing_does_not_take_the_others_along(route: Route) -> None:
    text = entry("e", "openai/a", api_key='"env:NOT_SET"', api_keys='["env:A", "env:B"]')
    found = plan(route(text, {"A": "1", "B": "2"}), "e")
    assert len(found.candidates) == 2


def test_secrets_are_in_no_text_of_a_table(route: Route) -> None:
    router = route(entry("e", "openai/a", api_key='"sk-very-secret"'))
    assert "very-secret" not in repr(router)
    assert "very-secret" not in first(router, "e").key.text


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spelling",
    ["kimi-coding", "kimi-code/kimi-coding", "kimi_code/kimi-coding", "KIMI_CODE/kimi-coding",
     "kimi-for-coding", "kimi-code/kimi-for-coding", "kimi", "KIMI"],
)  # fmt: skip
def test_all_spellings_of_a_model_are_the_same_model(route: Route, spelling: str) -> None:
    assert first(route(), spelling).key == first(route(), "kimi").key


@pytest.mark.parametrize(
    ("model", "upstream"),
    [
        ("kimi-code/kimi-coding", "kimi-for-coding"),
        ("moonshot/kimi-k2.5", "kimi-k2.6"),
        ("moonshot/moonshot-v1-8k", "kimi-k2.6"),
        ("moonshot/kimi-2.5", "kimi-k2.6"),
        ("moonshot/kimi-v1-128k", "kimi-k2.6"),
    ],
)
def test_a_retired_name_becomes_its_successor_with_a_warning(
    route: Route, model: str, upstream: str
) -> None:
    settings = settings_of(entry("e", model))
    assert first(build_router(settings, {}), "e").model == upstream
    assert [w for w in settings.warnings if w.startswith("model_list[0].model") and upstream in w]
    old = plan(route(entry("e", model.partition("/")[0] + "/" + upstream)), model)
    assert old.candidates[0].target.model == upstream
    assert [w for w in old.warnings if upstream in w]


def test_a_retired_name_is_left_alone_where_somebody_else_serves_it(route: Route) -> None:
    text = entry("e", "moonshot/moonshot-v1-8k", api_base='"http://127.0.0.1:9/v1"')
    assert first(route(text), "e").model == "moonshot-v1-8k"


def test_any_model_of_a_vendor_with_a_key_can_be_asked_for(route: Route) -> None:
    router = route(entry("e", "openrouter/meta/llama", custom_headers='{ X = "1" }'))
    target = first(router, "openrouter/qwen/qwen3")
    assert (target.model, dict(target.headers)) == ("qwen/qwen3", {"X": "1"})
    assert target.credential == first(router, "e").credential
    assert isinstance(router.resolve("groq/llama"), GatewayFailure)


def test_an_unknown_model_names_near_ones(route: Route) -> None:
    failure = route(entry("deepseek", "deepseek/deepseek-chat")).resolve("depseek")
    assert isinstance(failure, GatewayFailure)
    assert (failure.status, failure.type) == (404, "model_not_found")
    assert 'did you mean "deepseek"' in failure.message


@given(st.text(max_size=2000))
def test_no_name_breaks_the_table(name: str) -> None:
    router = build_router(settings_of(entry("e", "openai/a")), {})
    found = router.resolve(name)
    assert isinstance(found, Plan | GatewayFailure)
    if isinstance(found, GatewayFailure):
        assert len(found.message) < 1000


def test_what_can_be_asked_for_is_listed(route: Route) -> None:
    listed = route(entry("e", "openai/a")).names
    assert listed[:2] == ["e", "kimi"]
    assert {"route:FAST", "route:BUILD", "route:DOUBLE-CHECK", "route:SURGICAL_EDIT"} <= {*listed}


# -- pools ----------------------------------------------------------------------------------------

POOL = entry("p", "openai/a", api_key='"k0"', api_keys='["k1", "k2"]') + entry(
    "p", "openai/a", api_key='"k3"'
)


def keys(found: Plan) -> list[str]:
    return [c.target.credential.secret.reveal() for c in found.candidates]


def test_entries_of_one_name_and_keys_of_one_entry_are_a_pool(route: Route) -> None:
    found = plan(route(POOL), "p", session="s")
    assert sorted(keys(found)) == ["k0", "k1", "k2", "k3"]
    assert {c.level for c in found.candidates} == {0}


def test_the_same_key_twice_is_one_candidate(route: Route) -> None:
    router = route(POOL + entry("p", "openai/a", api_key='"env:K"'), {"K": "k1"})
    assert len(plan(router, "p").candidates) == 4


def test_a_session_stays_with_its_credential(route: Route) -> None:
    one, two = route(POOL), route(POOL)
    for session in map(str, range(50)):
        assert keys(plan(one, "p", session=session)) == keys(plan(two, "p", session=session))


def test_sessions_are_spread_evenly_over_a_pool(route: Route) -> None:
    router = route(POOL)
    count: dict[str, int] = {}
    for n in range(2000):
        key = keys(plan(router, "p", session=f"session-{n}"))[0]
        count[key] = count.get(key, 0) + 1
    assert all(400 < n < 600 for n in count.values())


@given(st.sets(st.integers(0, 30), min_size=2, max_size=8), st.text(max_size=20), st.data())
def test_a_credential_that_goes_moves_only_its_own_sessions(
    numbers: set[int], session: str, data: st.DataObject
) -> None:
    text = "".join(entry("p", "openai/a", api_key=f'"k{n}"') for n in sorted(numbers))
    pool = build_router(settings_of(text), {}).targets.pools["p"].targets
    before = balanced(pool, session or "s")
    gone = data.draw(st.sampled_from(pool))
    after = balanced(tuple(t for t in pool if t is not gone), session or "s")
    assert after == tuple(t for t in before if t is not gone)


def test_calls_without_a_session_take_turns(route: Route) -> None:
    router = route(POOL)
    firsts = [keys(plan(router, "p", turn=n))[0] for n in range(8)]
    assert firsts[:4] == firsts[4:]
    assert sorted(firsts[:4]) == ["k0", "k1", "k2", "k3"]


# -- fallbacks ------------------------------------------------------------------------------------


def test_fallbacks_follow_the_pool_in_their_order(route: Route) -> None:
    text = (
        entry("p", "openai/a", api_keys='["k1"]', fallbacks='["second", "kimi", "groq/llama"]')
        + entry("second", "deepseek/deepseek-chat", fallbacks='["third"]')
        + entry("third", "mistral/large")
    )
    found = plan(route(text), "p", session="s")
    assert names(found) == ["p", "p", "second", "kimi"]
    assert [c.level for c in found.candidates] == [0, 0, 1, 2]


def test_a_fallback_that_is_off_is_skipped(route: Route) -> None:
    text = entry("p", "openai/a", fallbacks='["off", "kimi"]') + entry(
        "off", "openai/b", enabled="false"
    )
    assert names(plan(route(text), "p")) == ["p", "kimi"]


def test_fallbacks_in_a_circle_end(route: Route) -> None:
    text = entry("a", "openai/a", fallbacks='["b", "a"]') + entry(
        "b", "openai/b", fallbacks='["a"]'
    )
    assert names(plan(route(text), "a")) == ["a", "b"]


# -- what is refused when the file is read --------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (entry("e", "nowhere/x"), "names no vendor that is known"),
        (entry("e", "opennai/gpt"), 'did you mean "openai/…"?'),
        (entry("e", "x", provider='"nope"'), "no vendor and no [providers.NAME]"),
        (entry("e", "openai/a", api_key='""'), "api_key is empty"),
        (entry("e", "openai/a", api_key='""', auth='"oauth"'), "has no login"),
        (entry("e", "kimi-code/k3", auth='"oauth"'), "one or the other"),
        (entry("e", "kimi-code/k3", api_key='""', auth='"oauth"',
               api_base='"https://evil.example.org/v1"'), "a login is sent nowhere else"),
        (entry("e", "k3", provider='"managed:kimi-code"', api_key='""',
               api_base='"https://evil.example.org/v1"'), "a login is sent nowhere else"),
        (entry("e", "openai/a", extra_body='{ model = "x" }'), "holds model"),
        (entry("e", "openai/a", user_agent='"a\\nb"'), "what HTTP cannot carry"),
        (entry("e", "kimi-code/kimi-k2.6"), "a model of the open platform"),
        (entry("e", "openai/a", rpm="0"), "rpm must be at least 1"),
        ('[gateway.roles]\nfast = "nope"\n', 'gateway.roles.fast names "nope"'),
        ('[routes.fast]\n[routes.FAST]\n', 'is the same route as "fast"'),
        ("[routes.FAST]\nrollout = 101\n", "rollout must be at most 100"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_when_the_file_is_read(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(text)
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_an_api_without_keys_needs_none(route: Route) -> None:
    target = first(route(entry("e", "ollama/qwen3", api_key='""')), "e")
    assert not target.credential.secret


def test_the_variables_of_the_source_system_fill_what_entries_leave_open() -> None:
    variables = {
        "PICOCLAW_PROVIDERS_KIMI_CODE_API_KEY": "sk-env",
        "PICOCLAW_PROVIDERS_KIMI_CODE_API_BASE": "https://api.kimi.com/coding/v1",
    }
    text = '[[model_list]]\nmodel_name = "a"\nmodel = "kimi_code/kimi-coding"\n'
    own = entry("b", "kimi-code/k3", api_key='"sk-own"')
    a, b = settings_of(text + own, variables).model_list
    assert (a.api_key.reveal(), a.api_base) == ("sk-env", "https://api.kimi.com/coding/v1")
    assert b.api_key.reveal() == "sk-own"


# -- routes ---------------------------------------------------------------------------------------

ALL = (
    entry("claude", "anthropic/claude-x")
    + entry("deepseek", "deepseek/deepseek-chat")
    + entry("groq", "groq/llama")
)


@pytest.mark.parametrize(
    ("name", "chain", "temperature"),
    [
        ("FAST", ["kimi", "groq", "deepseek"], 0.3),
        ("BUILD", ["kimi", "claude", "deepseek"], 0.2),
        ("DOUBLE-CHECK", ["claude", "kimi", "deepseek"], 0.1),
        ("VALIDATION", ["claude", "kimi", "deepseek"], 0.1),
        ("SURGICAL_EDIT", ["kimi", "deepseek"], 0.2),
        ("surgical-edit", ["kimi", "deepseek"], 0.2),
    ],
)
def test_built_in_routes_have_their_chains_and_temperatures(
    route: Route, name: str, chain: list[str], temperature: float
) -> None:
    found = plan(route(ALL), f"route:{name}", session="s", group="g")
    assert names(found) == chain
    assert [c.level for c in found.candidates] == list(range(len(chain)))
    assert found.route is not None
    assert found.route.temperature == temperature
    assert found.route.prompt
    assert found.warnings == ()


def test_validation_is_asked_for_a_verdict_and_an_edit_like_fast_work(route: Route) -> None:
    routes = route().routes
    assert "VALID or INVALID" in routes["DOUBLE-CHECK"].prompt
    assert routes["SURGICAL_EDIT"].prompt == routes["FAST"].prompt


def test_roles_without_a_key_are_left_out_of_the_chains(route: Route) -> None:
    assert names(plan(route(), "route:BUILD")) == ["kimi"]
    assert names(plan(route(), "route:DOUBLE-CHECK")) == ["kimi"]


def test_roles_can_be_filled_otherwise(route: Route) -> None:
    text = '[gateway.roles]\nprimary = "groq"\nvalidation = "kimi"\nfallback = ""\n' + ALL
    assert names(plan(route(text), "route:BUILD")) == ["groq", "kimi"]


def test_a_part_of_a_route_can_be_overridden(route: Route) -> None:
    found = plan(route("[routes.build]\ntemperature = 0.9\n" + ALL), "route:BUILD")
    assert found.route is not None
    assert (found.route.temperature, names(found)[0]) == (0.9, "kimi")
    text = '[routes.fast]\nchain = ["deepseek"]\nprompt = ""\nmax_tokens = 7\n' + ALL
    found = plan(route(text), "route:fast")
    assert found.route is not None
    assert (found.route.prompt, found.route.max_tokens, names(found)) == ("", 7, ["deepseek"])


def test_an_unknown_route_runs_the_usual_chain_with_a_warning(route: Route) -> None:
    found = plan(route(ALL), "route:WHATEVER")
    assert names(found) == ["kimi", "deepseek"]
    assert 'no route "WHATEVER"' in found.warnings[0]


def test_a_route_without_any_model_lists_what_it_would_need(route: Route) -> None:
    text = '[routes.mine]\nchain = ["off"]\n' + entry("off", "openai/a", enabled="false")
    failure = route(text).resolve("route:mine")
    assert isinstance(failure, GatewayFailure)
    assert (failure.status, "off" in failure.message) == (503, True)


def test_groups_outside_a_rollout_come_to_kimi_last(route: Route) -> None:
    router = route("[gateway]\nrollout = 0\n[routes.FAST]\nrollout = 100\n" + ALL)
    assert names(plan(router, "route:BUILD", group="g")) == ["claude", "deepseek", "kimi"]
    assert names(plan(router, "route:DOUBLE-CHECK", group="g")) == ["claude", "deepseek", "kimi"]
    assert names(plan(router, "route:FAST", group="g")) == ["kimi", "groq", "deepseek"]


@given(st.text(), st.integers(0, 100), st.integers(0, 100))
def test_a_higher_percentage_only_adds_groups(group: str, one: int, two: int) -> None:
    low, high = sorted((one, two))
    assert in_rollout(group, high) or not in_rollout(group, low)
    assert in_rollout(group, 100)
    assert not in_rollout(group, 0)


@pytest.mark.parametrize("percent", [25, 50, 75])
def test_a_rollout_takes_about_its_percentage_of_the_groups(percent: int) -> None:
    taken = sum(in_rollout(f"group-{n}", percent) for n in range(4000))
    assert abs(taken / 40 - percent) < 3
