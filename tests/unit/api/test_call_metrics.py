"""What Prometheus reads of the calls to models."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from runner.api.call_metrics import CallMetrics
from runner.calls import Call, Outcome, Tokens
from runner.gateway.routing import Router, build_router
from runner.settings.load import parse_settings, parse_toml

MODEL = ("demo", "k3")


def router(*models: str) -> Router:
    entries = "".join(f'[models.{m}]\nprovider = "demo"\nmodel = "{m}"\n' for m in models)
    base = '[providers.demo]\ntype = "kimi"\nbase_url = "http://127.0.0.1:1"\napi_key = "sk-x"\n'
    path = Path("/config.toml")
    text = f'default_model = "{models[0]}"\n{entries}{base}'
    return build_router(parse_settings(parse_toml(text.encode(), path), {}, path=path), {})


def made(*models: str) -> CallMetrics:
    table = router(*models)
    return CallMetrics(lambda: table)


def in_order(labels: dict[str, str]) -> list[str]:
    """The values of the labels; provider and model come first."""
    return [labels[n] for n in sorted(labels, key=lambda n: (n != "provider", n != "model", n))]


def samples(metrics: CallMetrics) -> dict[tuple[str, ...], float]:
    return {
        (s.name.removeprefix("nanokimi_model_"), *in_order(s.labels)): s.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for s in family.samples
    }


def ended(model: str = "k3", provider: str = "demo", outcome: Outcome = Outcome.OK) -> Call:
    return Call(at=0.0, outcome=outcome, provider=provider, model=model)


def test_calls_tokens_dollars_and_the_first_byte_are_counted_by_model() -> None:
    metrics = made("k3")
    tokens = Tokens(input=10, cached=100, output=20, reasoning=5)
    call = Call(
        at=0.0,
        outcome=Outcome.OK,
        provider="demo",
        model="k3",
        tokens=tokens,
        cost=1_500_000_000,
        first_byte_ms=700.0,
    )
    metrics.count(call)
    metrics.count(call)
    seen = samples(metrics)
    assert seen["calls_total", *MODEL, "ok"] == 2
    kinds = ("input", "cached", "output", "reasoning")
    assert [seen["tokens_total", *MODEL, kind] for kind in kinds] == [20, 200, 40, 10]
    assert ("tokens_total", *MODEL, "cache_write") not in seen
    assert seen["cost_dollars_total", *MODEL] == 3
    assert ("calls_unpriced_total", *MODEL) not in seen
    assert seen["first_byte_seconds_bucket", *MODEL, "0.5"] == 0
    assert seen["first_byte_seconds_bucket", *MODEL, "1.0"] == 2
    assert seen["first_byte_seconds_sum", *MODEL] == 1.4


def test_an_answer_without_a_known_cost_is_counted_and_a_failure_is_not() -> None:
    metrics = made("k3")
    metrics.count(ended())
    metrics.count(ended(outcome=Outcome.FAILED))
    seen = samples(metrics)
    assert seen["calls_unpriced_total", *MODEL] == 1
    assert ("cost_dollars_total", *MODEL) not in seen
    assert seen["calls_total", *MODEL, "failed"] == 1


def test_names_that_clients_make_up_are_one_label() -> None:
    metrics = made("k3")
    for n in range(1000):
        metrics.count(ended(model=f"made-up-{n}", provider="", outcome=Outcome.REFUSED))
    seen = samples(metrics)
    assert seen["calls_total", "other", "other", "refused"] == 1000
    assert not any("made-up" in label for labels in seen for label in labels)


def test_a_model_that_a_reload_brought_has_its_name() -> None:
    tables = [router("k3")]
    metrics = CallMetrics(lambda: tables[-1])
    metrics.count(ended())
    tables.append(router("k3", "k4"))
    metrics.count(ended("k4"))
    seen = samples(metrics)
    assert seen["calls_total", "demo", "k4", "ok"] == seen["calls_total", *MODEL, "ok"] == 1
