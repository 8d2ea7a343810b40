"""``nanokimi import``: configuration of older systems."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.context import context_of
from runner.cli.output import note, out
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
