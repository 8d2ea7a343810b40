"""``nanokimi doctor``: every check with pass, warn or fail, and the fix in one line."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated

import httpx
import typer

from runner import USER_AGENT
from runner.cli.check import Check, Grade, failed
from runner.cli.checks_login import check_clock, check_files, check_fit, check_login
from runner.cli.checks_store import check_store
from runner.cli.context import Context, context_of, run
from runner.cli.output import out, plain, show_json, table
from runner.errors import ImageMissingError, NanokimiError
from runner.host.credentials import Credentials
from runner.host.shelf import remove_shelves
from runner.model import folder_of
from runner.oauth.store import TokenStore
from runner.sandbox.spawner import Limits, SandboxSpec, Spawner
from runner.sandbox.volume import remove_volume
from runner.settings.layout import Layout
from runner.settings.schema import Settings
from runner.settings.tables import Provider

PROBE = "nanokimi-doctor"
PROBE_DEADLINE = 30.0
LITTLE_DISK = 1024**3
# Runs inside a sandbox: one line per fact, "name ok" or "name why not".
PROBE_SCRIPT = """
k=/home/agent/.kimi
say() { printf '%s\\n' "$*"; }
[ -r $k/config.toml ] && say config ok || say config is not readable
( : > $k/config/x ) 2>/dev/null && say config_ro is writable || say config_ro ok
( : > $k/credentials/x ) 2>/dev/null && say credentials_ro is writable || say credentials_ro ok
( : > $k/sessions/.probe && rm $k/sessions/.probe ) 2>/dev/null \
  && say sessions_rw ok || say sessions_rw is not writable
( : > $PWD/.probe && rm $PWD/.probe ) 2>/dev/null \
  && say workspace_rw ok || say workspace_rw is not writable
[ "$(id -u)" != 0 ] && say uid ok || say uid is root
"""


def doctor(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Check everything that has to work, and say the fix for what does not."""
    context = context_of(ctx)
    checks = run(lambda: _collect(context))
    if as_json:
        show_json([asdict(c) for c in checks])
    else:
        colours = {Grade.PASS: "green", Grade.WARN: "yellow", Grade.FAIL: "red"}
        shown = table("", "CHECK", "FOUND")
        for c in checks:
            grade = f"[{colours[c.grade]}]{c.grade}[/]"
            fix = f"\n[bold]→ {plain(c.fix)}[/]" if c.fix else ""
            shown.add_row(grade, c.name, plain(c.found) + fix)
        out.print(shown)
    if any(c.grade is Grade.FAIL for c in checks):
        raise typer.Exit(1)


async def _collect(context: Context) -> list[Check]:
    return [check async for check in _checks(context)]


async def _checks(context: Context) -> AsyncIterator[Check]:
    try:
        settings = context.settings()
    except NanokimiError as e:
        yield failed("config", e)
        return
    for warning in settings.warnings:
        yield Check("config", Grade.WARN, warning)
    yield Check("config", Grade.PASS, str(context.layout.config))
    yield _disk(context)
    async for check in check_store(context.layout, settings.store):
        yield check
    credentials = Credentials(context.layout.credentials)
    try:
        async for check in _provider(context.layout, settings, credentials):
            yield check
    finally:
        await credentials.aclose()
    from runner.sandbox.backend import open_spawner

    try:
        spawner = await open_spawner(
            settings.sandbox.backend, context.layout, PROBE, image=settings.sandbox.image
        )
    except NanokimiError as e:
        yield failed("engine", e)
        return
    try:
        async for check in _sandbox(settings, spawner):
            yield check
    finally:
        await spawner.close()
        await asyncio.to_thread(remove_volume, context.layout, folder_of(PROBE))
        await asyncio.to_thread(remove_shelves, context.layout, folder_of(PROBE))


def _disk(context: Context) -> Check:
    free = shutil.disk_usage(context.data).free
    found = f"{free / 1024**3:.1f} GiB free at {context.data}"
    if free < LITTLE_DISK:
        return Check("disk", Grade.WARN, found, "free some space, or choose another --data")
    return Check("disk", Grade.PASS, found)


async def _provider(
    layout: Layout, settings: Settings, credentials: Credentials
) -> AsyncIterator[Check]:
    of_group = settings.for_group(PROBE)
    provider = of_group.provider
    files = [layout.api_token.name, layout.webhook_secret.name]
    if provider.oauth is not None:
        files.append(provider.oauth.credential_file)
    for check in check_files(layout.credentials, files):
        yield check
    yield check_fit(of_group)
    token = ""
    try:
        token = await credentials.token(provider)
        yield Check("login", Grade.PASS, f"a usable credential for {of_group.provider_name}")
    except NanokimiError as e:
        yield failed("login", e)
    if provider.oauth is not None:
        store = TokenStore(layout.credentials, provider.oauth.key)
        try:
            for check in check_login(
                store, credentials.login(provider.oauth).status(), time.time()
            ):
                yield check
        except NanokimiError as e:
            yield failed("login file", e)
    async for check in _model(provider, token):
        yield check


async def _model(provider: Provider, token: str) -> AsyncIterator[Check]:
    """Without a token only the clock is looked at."""
    url = f"{provider.base_url}/models"
    headers = {"user-agent": USER_AGENT, **provider.custom_headers}
    if token:
        headers["authorization"] = f"Bearer {token}"
    asked = time.time()
    try:
        async with httpx.AsyncClient(timeout=10.0) as client:
            answer = await client.get(url, headers=headers)
    except httpx.HTTPError as e:
        found = f"{url}: {type(e).__name__}"
        yield Check("model", Grade.FAIL, found, "check the network, proxy and base_url")
        return
    yield check_clock(answer.headers.get("date"), asked, time.time())
    if not token:
        return
    if answer.status_code in (401, 403):
        found = f"{url} answers HTTP {answer.status_code}"
        yield Check("model", Grade.FAIL, found, "run `nanokimi login`, or correct the api_key")
    elif answer.is_error:
        found = f"{url} answers HTTP {answer.status_code}"
        yield Check("model", Grade.WARN, found, "a message will tell more: nanokimi chat -m hello")
    else:
        yield Check("model", Grade.PASS, f"{provider.base_url} answers")


async def _sandbox(settings: Settings, spawner: Spawner) -> AsyncIterator[Check]:
    try:
        report = await spawner.check()
    except NanokimiError as e:
        yield failed("image" if isinstance(e, ImageMissingError) else "engine", e)
        return
    found = f"{report.backend} {report.version}: {report.isolation}"
    if report.warning:
        yield Check("engine", Grade.WARN, found, report.warning)
    else:
        yield Check("engine", Grade.PASS, found)
    if report.stale:
        found = f"{report.image} is of another release: its agents may lack tools of this host"
        yield Check("image", Grade.WARN, found, "run `nanokimi build`")
    elif report.image:
        yield Check("image", Grade.PASS, report.image)
    spec = SandboxSpec(
        group=PROBE,
        folder=folder_of(PROBE),
        config="# a probe\n",
        credentials={},
        limits=Limits(settings.sandbox.memory, settings.sandbox.cpus, settings.sandbox.pids),
        image=settings.sandbox.image,
        command=("/bin/sh", "-c", PROBE_SCRIPT),
    )
    try:
        async with asyncio.timeout(PROBE_DEADLINE):
            said = await _run_probe(spawner, spec)
    except (NanokimiError, TimeoutError) as e:
        why = e if isinstance(e, NanokimiError) else NanokimiError("the probe took too long")
        yield failed("sandbox", why)
        return
    for line in said.splitlines():
        name, _, result = line.partition(" ")
        good = result == "ok"
        weak = not good and report.backend != "docker"
        grade = Grade.PASS if good else Grade.WARN if weak else Grade.FAIL
        fix = "" if good else "use the docker backend" if weak else "run `nanokimi build`"
        yield Check(f"mount {name}", grade, result, fix)


async def _run_probe(spawner: Spawner, spec: SandboxSpec) -> str:
    sandbox = await spawner.ensure(spec, 1)
    try:
        said = b""
        while data := await sandbox.streams.read():
            said += data
        return said.decode("utf-8", "replace")
    finally:
        sandbox.streams.abort()
        await spawner.stop(sandbox.info, grace=0)
