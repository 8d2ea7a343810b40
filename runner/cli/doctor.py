"""``nanokimi doctor``: every check with pass, warn or fail, and the fix in one line."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated

import httpx
import typer

from runner.cli.context import Context, context_of, run
from runner.cli.output import out, show_json, table
from runner.errors import NanokimiError
from runner.gateway.upstream import USER_AGENT
from runner.host.app import remove_files
from runner.host.credentials import Credentials
from runner.model import folder_of
from runner.sandbox.backend import open_spawner
from runner.sandbox.spawner import Limits, SandboxSpec, Spawner
from runner.settings.schema import Settings

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


class Grade(StrEnum):
    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    grade: Grade
    found: str
    fix: str = ""


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
        shown = table("", "CHECK", "FOUND", "FIX")
        for c in checks:
            grade = f"[{colours[c.grade]}]{c.grade}[/]"
            shown.add_row(grade, c.name, c.found.replace("[", "\\["), c.fix.replace("[", "\\["))
        out.print(shown)
    if any(c.grade is Grade.FAIL for c in checks):
        raise typer.Exit(1)


async def _collect(context: Context) -> list[Check]:
    return [check async for check in _checks(context)]


async def _checks(context: Context) -> AsyncIterator[Check]:
    try:
        settings = context.settings()
    except NanokimiError as e:
        yield _failed("config", e)
        return
    for warning in settings.warnings:
        yield Check("config", Grade.WARN, warning)
    yield Check("config", Grade.PASS, str(context.layout.config))
    yield _disk(context)
    credentials = Credentials(context.layout.credentials)
    try:
        async for check in _provider(settings, credentials):
            yield check
    finally:
        await credentials.aclose()
    try:
        spawner = await open_spawner(
            settings.sandbox.backend, context.layout, PROBE, image=settings.sandbox.image
        )
    except NanokimiError as e:
        yield _failed("engine", e)
        return
    try:
        async for check in _sandbox(settings, spawner):
            yield check
    finally:
        await spawner.close()
        await asyncio.to_thread(remove_files, context.layout, folder_of(PROBE))


def _disk(context: Context) -> Check:
    free = shutil.disk_usage(context.data).free
    found = f"{free / 1024**3:.1f} GiB free at {context.data}"
    if free < LITTLE_DISK:
        return Check("disk", Grade.WARN, found, "free some space, or choose another --data")
    return Check("disk", Grade.PASS, found)


async def _provider(settings: Settings, credentials: Credentials) -> AsyncIterator[Check]:
    of_group = settings.for_group(PROBE)
    try:
        await credentials.check(of_group.provider)
        token = await credentials.upstream(of_group.provider).token(None)
    except NanokimiError as e:
        yield _failed("login", e)
        return
    yield Check("login", Grade.PASS, f"a usable credential for {of_group.provider_name}")
    url = f"{of_group.provider.base_url}/models"
    try:
        async with httpx.AsyncClient(timeout=10.0) as client:
            answer = await client.get(
                url,
                headers={
                    "user-agent": USER_AGENT,
                    **of_group.provider.custom_headers,
                    "authorization": f"Bearer {token}",
                },
            )
    except httpx.HTTPError as e:
        found = f"{url}: {type(e).__name__}"
        yield Check("model", Grade.FAIL, found, "check the network, proxy and base_url")
        return
    if answer.status_code in (401, 403):
        found = f"{url} answers HTTP {answer.status_code}"
        yield Check("model", Grade.FAIL, found, "run `nanokimi login`, or correct the api_key")
    elif answer.is_error:
        found = f"{url} answers HTTP {answer.status_code}"
        yield Check("model", Grade.WARN, found, "a message will tell more: nanokimi chat -m hello")
    else:
        yield Check("model", Grade.PASS, f"{of_group.provider.base_url} answers")


async def _sandbox(settings: Settings, spawner: Spawner) -> AsyncIterator[Check]:
    try:
        report = await spawner.check()
    except NanokimiError as e:
        yield _failed("engine", e)
        return
    found = f"{report.backend} {report.version}: {report.isolation}"
    if report.warning:
        yield Check("engine", Grade.WARN, found, report.warning)
    else:
        yield Check("engine", Grade.PASS, found)
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
        yield _failed("sandbox", why)
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


def _failed(name: str, e: NanokimiError) -> Check:
    return Check(name, Grade.FAIL, e.message, e.hint)
