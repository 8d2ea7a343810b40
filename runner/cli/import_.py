"""``nanokimi import``: what older systems have."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.context import context_of, run
from runner.cli.output import note, out, plain, show_json, table
from runner.errors import ConfigError, PermanentError

app = typer.Typer(help="Bring along what older systems have.", no_args_is_help=True)


@app.command("picoclaw")
def picoclaw(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="Its config.json.")],
    show: Annotated[
        bool, typer.Option("--print", help="Show the config text and write nothing.")
    ] = False,
) -> None:
    """Make data/config.toml from a picoclaw config. Never overwrites one."""
    from runner.oauth.private_files import write_private
    from runner.settings.load import parse_settings, parse_toml
    from runner.settings.picoclaw import MAX_BYTES, convert

    layout = context_of(ctx).layout
    try:
        with file.open("rb") as f:
            imported = convert(f.read(MAX_BYTES + 1))
    except OSError as e:
        raise ConfigError(
            f"{file} cannot be read: {e.strerror}", hint="name picoclaw's config.json"
        ) from None
    for text in imported.notes:
        note(text)
    if show:
        out.print(imported.text, markup=False, end="")
        return
    config = layout.config
    parse_settings(parse_toml(imported.text.encode(), config), os.environ, path=config)
    try:
        if os.path.lexists(config):
            raise FileExistsError
        layout.credentials.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, secret in imported.secrets.items():
            write_private(layout.root / name, secret.encode() + b"\n")
        with config.open("x", encoding="utf-8") as written:
            written.write(imported.text)
    except FileExistsError:
        raise ConfigError(
            f"{config} is there already",
            hint="choose another directory with --data, or show the text with --print",
        ) from None
    except OSError as e:
        raise PermanentError(
            f"{config} cannot be written: {e.strerror}",
            hint="choose another directory with --data",
        ) from None
    out.print(f"wrote {config}")
    if imported.secrets:
        out.print(f"wrote {len(imported.secrets)} keys into {layout.credentials}")


@app.command("nanokimi")
def nanokimi(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The one with data/ and groups/, or a data/.")
    ],
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="FOLDER=ID", help="The chat that a folder belongs to."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Take over NanoKimi, or another data directory of nanokimi. Never overwrites anything."""
    from runner.host.lock import host_lock, serving
    from runner.host.takeover.act import TakeOver
    from runner.host.takeover.source import find

    layout = context_of(ctx).layout
    source = find(directory.absolute(), _names(group or []))
    if os.path.realpath(source.root) == os.path.realpath(layout.root):
        raise ConfigError(
            f"{directory} is the data directory itself", hint="name another one with --data"
        )
    work = TakeOver(source, layout, os.environ, dry=dry_run)
    if dry_run:
        if serving(layout.host_lock) is not None:
            note("a host serves the data directory: end it before the import itself")
        report = run(work.run)
    else:
        with host_lock(layout.host_lock):
            report = run(work.run)
    if as_json:
        show_json({**asdict(report), "dry_run": dry_run})
        return
    for text in report.notes:
        note(text)
    shown = table("", "WHAT", "NAME", "")
    for item in report.items:
        mark = ("would take" if dry_run else "took") if item.taken else "left"
        shown.add_row(mark, item.what, plain(item.name), plain(item.detail))
    out.print(shown)


def _names(given: list[str]) -> dict[str, str]:
    """``FOLDER=ID`` each; an id may hold further equal signs."""
    pairs = [pair.partition("=") for pair in given]
    for folder, equals, group_id in pairs:
        if not (folder and equals and group_id):
            raise ConfigError(
                f"--group {folder}{equals}{group_id} is not FOLDER=ID",
                hint="write --group 'family=1203@g.us'",
            )
    return {folder: group_id for folder, _, group_id in pairs}
