"""Usage as people and clients read it: the API on a real socket, the commands on a real store."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from fastapi import FastAPI
from typer.testing import CliRunner, Result

from runner.api.serving import serving
from runner.api.usage import ledger_of, router
from runner.api.usage_bodies import Filter, QualityReport, UsageReport, parse_by
from runner.calls import DAY, NANO, By, Call, Failure, Outcome, Tokens
from runner.cli import monitor, usage
from runner.cli.context import Context
from runner.cli.usage import ask_quality, ask_usage
from runner.errors import ConfigError, NanokimiError
from runner.host.lock import host_lock
from runner.settings.layout import Layout
from runner.settings.template import render_template
from runner.store import Store
from runner.store.ledger import Ledger

app = typer.Typer()
app.command("usage")(usage.usage)
app.add_typer(monitor.app, name="monitor")


@app.callback()
def _main(ctx: typer.Context, data: Path) -> None:
    ctx.obj = Context(data)


def call(**more: Any) -> Call:
    made = Call(
        at=time.time(),
        outcome=Outcome.OK,
        group="team",
        key="ci",
        provider="kimi",
        model="kimi-k3",
        tokens=Tokens(input=1000, cached=500, output=200),
        cost=NANO // 100,
        first_byte_ms=200.0,
        total_ms=1500.0,
    )
    return replace(made, **more)


CALLS = [
    call(),
    call(),
    call(provider="claude", model="opus", cost=NANO, total_ms=9000.0, fallback=True,
         failures=(Failure("kimi", "kimi-k3", "overloaded"),)),
    call(group="[bold]odd[/]\x1b]0;x\x07", model="kimi-for-coding", cost=None),
    call(at=time.time() - 3 * DAY, cost=NANO // 2),
    call(at=time.time() - 30 * DAY, cost=NANO * 100),
]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory whose ledger holds :data:`CALLS`."""
    layout = Layout(tmp_path / "data")
    layout.root.mkdir()
    layout.config.write_text(render_template())

    async def fill() -> None:
        store = await Store.open(layout.database)
        await Ledger(store).write(CALLS)
        await store.close()

    asyncio.run(fill())
    return layout.root


@asynccontextmanager
async def api(data: Path) -> AsyncIterator[str]:
    """The calls below ``/api/usage`` over the same store; gives the URL."""
    store = await Store.open(Layout(data).database)
    served = FastAPI()
    served.include_router(router)
    served.dependency_overrides[ledger_of] = lambda: Ledger(store)
    try:
        async with serving(served, "127.0.0.1", 0) as url:
            yield url
    finally:
        await store.close()


def told(data: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(app, [str(data), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_usage_over_http_has_rows_total_and_the_span(data: Path) -> None:
    async def ask() -> tuple[dict[str, Any], dict[str, Any], int]:
        async with api(data) as url, httpx.AsyncClient(base_url=url) as http:
            seven = (await http.get("/api/usage", params={"by": "model"})).json()
            one = (await http.get("/api/usage", params={"days": 1, "group": "team"})).json()
            bad = (await http.get("/api/usage", params={"days": 0})).status_code
            return seven, one, bad

    seven, one, bad = asyncio.run(ask())
    assert [r["by"] for r in seven["rows"]] == [
        {"model": "opus"}, {"model": "kimi-k3"}, {"model": "kimi-for-coding"}
    ]  # fmt: skip
    assert seven["rows"][1]["cost"] == pytest.approx(0.52)
    coding = seven["rows"][2]
    assert (coding["cost"], coding["unpriced"]) == (None, 1)
    assert (seven["total"]["calls"], seven["total"]["cost"]) == (5, pytest.approx(1.52))
    assert seven["rows"][1]["tokens"]["cache_write"] is None
    assert seven["until"] - seven["since"] < 7 * DAY
    assert one["total"]["calls"] == 3
    assert set(one["rows"][0]["by"]) == {"group", "model", "day"}
    assert bad == 422


def test_what_usage_cannot_be_listed_by_is_refused() -> None:
    assert parse_by("model, group,model") == (By.MODEL, By.GROUP)
    for wrong in ("colour", "group,,sender", ""):
        with pytest.raises(ConfigError) as e:
            parse_by(wrong)
        assert "provider, model, day" in e.value.hint


def test_the_command_asks_the_host_that_serves(data: Path, tmp_path: Path) -> None:
    here = Layout(tmp_path / "served")  # where the store is empty: the answers must be the host's
    where = Filter(days=7, group="team")

    async def ask(root: Path) -> tuple[UsageReport, QualityReport]:
        context = Context(root)
        return await ask_usage(context, (By.MODEL,), where), await ask_quality(context, where)

    async def both() -> tuple[tuple[UsageReport, QualityReport], ...]:
        with host_lock(here.host_lock) as lock:
            async with api(data) as url:
                lock.announce(url)
                return await ask(data), await ask(here.root)

    (usage_read, quality_read), (usage_asked, quality_asked) = asyncio.run(both())
    assert usage_asked.total.calls == 4
    assert (usage_asked.rows, usage_asked.total) == (usage_read.rows, usage_read.total)
    assert quality_asked.providers == quality_read.providers
    assert quality_asked.overall == quality_read.overall
    assert quality_asked.overall is not None


def test_the_usage_table_shows_unpriced_calls_as_such(data: Path) -> None:
    text = told(data, "usage", "--by", "group,model").stdout
    lines = {line.split()[1]: line for line in text.splitlines() if line.strip()}
    assert lines["kimi-for-coding"].split()[0] == "[bold]odd[/]?]0;x?"
    assert lines["kimi-for-coding"].rstrip().endswith(" 1 unpriced")
    assert "$0.5200" in lines["kimi-k3"]
    assert "total" in text
    assert "$1.5200 + 1 unpriced" in text


def test_usage_as_json_is_json_and_nothing_else(data: Path) -> None:
    got = json.loads(told(data, "usage", "--by", "key", "--days", "60", "--json").stdout)
    assert [(r["by"], r["calls"]) for r in got["rows"]] == [({"key": "ci"}, 6)]


def test_an_empty_ledger_is_said_so(tmp_path: Path) -> None:
    for arguments in (["usage"], ["monitor", "providers"], ["monitor", "quality"]):
        (tmp_path / "config.toml").write_text(render_template())
        assert told(tmp_path, *arguments).stderr.strip() == "no calls in this time"


def test_costs_list_every_day_also_those_without_calls(data: Path) -> None:
    text = told(data, "monitor", "costs", "--days", "4").stdout
    lines = text.splitlines()
    assert len([line for line in lines if line[:2] == "20"]) == 4
    assert "$0.5000" in lines[1]
    assert lines[2].split()[1] == "0"
    assert "cost_per_day: $0.3800 (calls of unknown cost, not in it: 1)" in text


def test_providers_are_compared_and_missed_targets_are_warnings(data: Path) -> None:
    result = told(data, "monitor", "providers", "--compare", "--new", "claude", "--old", "kimi")
    assert result.exit_code == 0
    assert "all providers" in result.stdout
    warned = [line for line in result.stdout.splitlines() if line.startswith("warning:")]
    assert "warning: kimi: success_rate 80.0% is below 90.0%" in warned
    assert "warning: claude: avg_response_time 9.00 s is above 5 s" in warned
    assert any("fallback_rate 20.0% is above 10.0%" in line for line in warned)
    (pair,) = json.loads(
        told(data, "monitor", "providers", "--new", "claude", "--old", "kimi", "--json").stdout
    )["comparison"]
    assert pair["speed_change"] == pytest.approx(-500.0)
    assert pair["success_rate_change"] == pytest.approx(20.0)


def test_the_busiest_provider_is_compared_with_the_others(data: Path) -> None:
    (pair,) = json.loads(told(data, "monitor", "providers", "--compare", "--json").stdout)[
        "comparison"
    ]
    assert (pair["new"], pair["old"]) == ("kimi", "claude")


def test_quality_of_one_provider_or_the_names_that_there_are(data: Path) -> None:
    got = json.loads(told(data, "monitor", "quality", "--provider", "kimi", "--json").stdout)
    assert [(q["provider"], q["answered"], q["failed"]) for q in got["quality"]] == [("kimi", 4, 1)]
    assert got["warnings"][0]["metric"] == "success_rate"
    with pytest.raises(NanokimiError) as e:
        told(data, "monitor", "quality", "--provider", "groq")
    assert e.value.hint == "with calls: kimi, claude"


def test_an_operator_s_own_targets_count(data: Path) -> None:
    config = data / "config.toml"
    config.write_text(config.read_text().replace("#success_rate = 0.9", "success_rate = 0.5"))
    got = json.loads(told(data, "monitor", "quality", "--json").stdout)
    assert "success_rate" not in {w["metric"] for w in got["warnings"]}
