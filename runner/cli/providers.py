"""``nanokimi providers``: does each model answer, and does a new one do better than the old."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.context import Context, context_of, run
from runner.cli.monitor import dollars, percent, seconds
from runner.cli.output import note, out, plain, show_json, table
from runner.cli.usage import JsonOption, name
from runner.cli.wide import show_wide
from runner.errors import ConfigError, PermanentError
from runner.gateway.comparison import (
    PROMPTS,
    Prompt,
    Report,
    Run,
    Side,
    StepResult,
    judge,
    read_prompts,
    report_of,
    succeeded,
)
from runner.gateway.failure import GatewayFailure, Reason
from runner.gateway.rests import Rests
from runner.gateway.routing import Router
from runner.gateway.service import Parts
from runner.gateway.state import MemoryState
from runner.gateway.targets import Target
from runner.gateway.trial import Trial, only, without_fallbacks
from runner.gateway.verdict import read_validation
from runner.host.credentials import Credentials
from runner.host.models import Models
from runner.settings.problem import shorten
from runner.settings.schema import Settings
from runner.store import Store, place_of

app = typer.Typer(
    help="Real calls to the configured models: they cost what they cost.", no_args_is_help=True
)

QUESTION = "Reply with the word ok."
ANSWER_TOKENS = 64
TEST_DEADLINE = 60.0
AT_ONCE = 4
MAX_PROMPTS_BYTES = 1024 * 1024
JUDGE = "route:DOUBLE-CHECK"

_TRY_LATER = "the provider has trouble: try again later"
_ACCOUNT = "look at the balance and the plan of the account at the provider"
_WAY = "check api_base or base_url, proxy and the network"
_FIXES = {
    Reason.AUTH: "put a valid key into config.toml",
    Reason.MEMBERSHIP: _ACCOUNT,
    Reason.USAGE_LIMIT: _ACCOUNT,
    Reason.QUOTA: _ACCOUNT,
    Reason.CLIENT_REFUSED: "set the user_agent of the entry to one that this provider lets in",
    Reason.FORBIDDEN: "give the key the right to use this model",
    Reason.MODEL_GONE: "name a model that this provider has",
    Reason.RATE_LIMIT: "wait, or add another key to the pool",
    Reason.OVERLOADED: _TRY_LATER,
    Reason.SERVER_ERROR: _TRY_LATER,
    Reason.TIMEOUT: _WAY,
    Reason.UNREACHABLE: _WAY,
    Reason.BROKEN: _WAY,
    Reason.WRONG_ENDPOINT: _WAY,
    Reason.CONTEXT_LENGTH: "name a model with a larger context",
    Reason.CONTENT: "the provider refuses this content: try another model",
    Reason.BAD_REQUEST: "check extra_body, format and the other settings of the entry",
}


@dataclass(frozen=True, slots=True)
class Tested:
    """``state`` is ``ok``, ``failed`` or ``off``; ``latency`` is seconds."""

    name: str
    provider: str
    model: str
    state: str
    latency: float | None = None
    error: str = ""
    reason: str = ""
    fix: str = ""


@app.command("test")
def try_all(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """One small call to every configured model, with each of its keys."""
    context = context_of(ctx)
    default, tested = run(lambda: _test(context))
    ok = any(t.state == "ok" for t in tested if t.name == default)
    if as_json:
        found = [asdict(t) for t in tested]
        show_json({"ok": ok, "default_model": default, "targets": found})
    else:
        shown = table("NAME", "PROVIDER", "MODEL", "RESULT", "LATENCY")
        for t in tested:
            latency = "-" if t.latency is None else f"{t.latency:.2f} s"
            said = t.state if not t.error else f"{t.state}: {shorten(t.error, 160)}"
            shown.add_row(name(t.name), name(t.provider), name(t.model), plain(said), latency)
        show_wide(shown)
        for t in tested:
            if t.fix:
                out.print(f"[bold]hint:[/] {name(t.name)}: {plain(t.fix)}")
        if not ok:
            note(f"the default model {default!r} does not answer")
    if not ok:
        raise typer.Exit(1)


async def _test(context: Context) -> tuple[str, list[Tested]]:
    settings = context.settings()
    async with _parts(context, settings) as parts:
        quick = settings.gateway.model_copy(
            update={"max_retries": 0, "deadline": min(settings.gateway.deadline, TEST_DEADLINE)}
        )
        parts = replace(parts, settings=settings.model_copy(update={"gateway": quick}))
        gate = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(_test_one(parts, target, gate), name=f"test {target.name}")
                for target in parts.router.targets.all
            ]
        tested = [task.result() for task in asked]
        tested += [
            Tested(off, "", "", "off", error=why)
            for off, why in parts.router.targets.disabled.items()
        ]
    return settings.default_model, tested


async def _test_one(parts: Parts, target: Target, gate: asyncio.Semaphore) -> Tested:
    alone = replace(parts, router=only(parts.router, target), rests=Rests(MemoryState()))
    async with gate, aclosing(Trial(alone)) as trial:
        result = await trial.ask(target.name, QUESTION, max_tokens=ANSWER_TOKENS)
    return Tested(
        target.name,
        target.provider,
        target.model,
        "failed" if result.error else "ok",
        None if result.error else result.response_time,
        result.error,
        result.reason,
        _fix(result, target),
    )


def _fix(result: StepResult, target: Target) -> str:
    if not result.error:
        return ""
    if result.reason == Reason.AUTH and target.credential.oauth is not None:
        return "run `nanokimi login`"
    return _FIXES[Reason(result.reason)] if result.reason in set(Reason) else ""


@app.command("compare")
def compare(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(help="The model that is used now, or route:NAME.")],
    new: Annotated[str, typer.Argument(help="The one that may replace it.")],
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="A JSON list of prompts; three without it.")
    ] = None,
    report: Annotated[Path, typer.Option("--out", help="Where the JSON report goes.")] = Path(
        "migration_report.json"
    ),
    validate: Annotated[
        bool, typer.Option("--validate", help=f"Let {JUDGE} judge every answer.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask two models the same, side by side, and write down who does better."""
    context = context_of(ctx)
    asked = PROMPTS if prompts is None else _read(prompts)
    if not report.absolute().parent.is_dir():
        raise ConfigError(
            f"{report} cannot be written: its directory does not exist", hint="choose another --out"
        )
    found = run(lambda: _compare(context, old, new, asked, validate=validate))
    document = found.as_json(_now())
    try:
        report.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    except OSError as e:
        raise PermanentError(
            f"{report} cannot be written: {e.strerror}", hint="choose another --out"
        ) from None
    if as_json:
        show_json(document)
        return
    _show(found)
    out.print(f"\nwrote {plain(str(report))}")


def _read(path: Path) -> tuple[Prompt, ...]:
    try:
        with path.open("rb") as f:
            document = f.read(MAX_PROMPTS_BYTES + 1)
    except OSError as e:
        raise ConfigError(
            f"{path} cannot be read: {e.strerror}", hint="name a JSON list of prompts"
        ) from None
    if len(document) > MAX_PROMPTS_BYTES:
        raise ConfigError(
            f"{path} has more than {MAX_PROMPTS_BYTES} bytes", hint="ask with fewer prompts"
        )
    return read_prompts(document)


async def _compare(
    context: Context, old: str, new: str, prompts: Iterable[Prompt], *, validate: bool
) -> Report:
    """One call after the other, so that none waits for another; who goes first takes turns."""
    settings = context.settings()
    async with _parts(context, settings) as parts:
        router = without_fallbacks(parts.router)
        for model in (old, new, *([JUDGE] if validate else [])):
            _check(router, model)
        alone = replace(parts, router=router, rests=Rests(MemoryState()))
        runs: list[Run] = []
        async with aclosing(Trial(alone)) as trial:
            for prompt in prompts:
                note(f"asking {old} and {new}: {prompt.test}")
                sides: dict[str, Side] = {}
                order = (old, new) if len(runs) % 2 == 0 else (new, old)
                for model in order:
                    sides[model] = await _side(trial, model, prompt, validate=validate)
                runs.append(Run(prompt, new=sides[new], old=sides[old], at=_now()))
    return report_of(new, old, runs, settings.gateway.targets)


async def _side(trial: Trial, model: str, prompt: Prompt, *, validate: bool) -> Side:
    result = await trial.ask(model, prompt.prompt)
    if result.error or not validate:
        return Side(result)
    question = f"The task:\n\n{prompt.prompt}\n\nThe code to judge:\n\n{result.content}"
    judged = await trial.ask(JUDGE, question)
    return Side(result, read_validation(judged.error or judged.content))


def _check(router: Router, model: str) -> None:
    found = router.resolve(model)
    if isinstance(found, GatewayFailure):
        raise ConfigError(found.message, hint="`nanokimi providers test` lists the models")


@asynccontextmanager
async def _parts(context: Context, settings: Settings) -> AsyncIterator[Parts]:
    """What the gateway of this data directory is made of; its calls are booked."""
    credentials = Credentials(context.layout.credentials)
    store = await Store.open(place_of(context.layout, settings.store))
    try:
        models = Models(context.layout, settings, store, credentials)
        async with models.running():
            yield models.gateway.parts
    finally:
        await credentials.aclose()
        await store.close()


def _show(found: Report) -> None:
    shown = table("TEST", "OLD", "NEW", "VERDICT", "TIME", "COST")
    for each in found.runs:
        time_diff, cost_diff = each.time_diff, each.cost_diff
        shown.add_row(
            name(each.prompt.test),
            *(_how(each.prompt, side) for side in (each.old, each.new)),
            judge(each).value,
            "no data" if time_diff is None else f"{time_diff:+.2f} s",
            "no data" if cost_diff is None else f"{cost_diff:+.6f} $",
        )
    show_wide(shown)
    out.print()
    sums = table("MODEL", "SUCCESS", "AVG TIME", "TOKENS/TASK", "COST/TASK")
    for q in (found.old, found.new):
        tokens = "no data" if q.tokens_per_task is None else f"{q.tokens_per_task:,.0f}"
        row = percent(q.success_rate), seconds(q.avg_ms), tokens, dollars(q.cost_per_task)
        sums.add_row(name(q.provider), *row)
    show_wide(sums)
    change = found.change
    rates = (
        ("cost_saving", change.cost_saving, " %"),
        ("speed_change", change.speed_change, " %"),
        ("success_rate_change", change.success_rate_change, " points"),
    )
    out.print()
    for metric, value, unit in rates:
        out.print(f"{metric}: {'no data' if value is None else f'{value:+.1f}{unit}'}")
    ratio = change.tokens_efficiency
    out.print(f"tokens_efficiency: {'no data' if ratio is None else f'{ratio:.2f}'}")
    for miss in found.warnings:
        out.print("[yellow]warning:[/]", plain(shorten(miss.text, 200)))


def _how(prompt: Prompt, side: Side) -> str:
    if side.result.error:
        return plain("failed: " + shorten(side.result.error, 80))
    judged = "" if side.validation is None else f", {side.validation.judgement.value}"
    word = "ok" if succeeded(prompt, side) else "wrong"
    return f"{word}, {side.result.response_time:.2f} s{judged}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
