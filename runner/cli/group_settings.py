"""``nanokimi groups set``: what differs for one group, written into ``config.toml``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.context import context_of
from runner.cli.output import note, out
from runner.errors import ConfigError, PermanentError


def set_settings(
    ctx: typer.Context,
    group: Annotated[str, typer.Argument(help="The group's id.")],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help='As in [groups."ID"]: trigger=@kimi'),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="KEY", help="Take a key out: as everywhere again."),
    ] = None,
) -> None:
    """Set what differs for one group, in config.toml. A running host takes it up by itself."""
    from runner.host.people import check_group_id
    from runner.settings.edit import set_of_group, unset_of_group
    from runner.settings.load import MAX_BYTES, load_settings

    if not pairs and not unset:
        raise ConfigError("nothing is to be set", hint="write KEY=VALUE, or --unset KEY")
    check_group_id(group)
    layout = context_of(ctx).layout
    settings = load_settings(layout, os.environ)  # a broken file is not edited
    path = Path(os.path.realpath(layout.config))
    with path.open("rb") as file:
        before = file.read(MAX_BYTES).decode()
    text = before
    for key in unset or []:
        text, settings = unset_of_group(text, group, key, os.environ, layout.config)
    for pair in pairs or []:
        text, settings = set_of_group(text, group, pair, os.environ, layout.config)
    if text == before:
        out.print("it is so already")
        return
    _replace(path, text)
    out.print(f"wrote {layout.config}")
    for warning in settings.warnings:
        note(warning)


def _replace(path: Path, text: str) -> None:
    from runner.sandbox.volumes import write_atomic

    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        write_atomic(directory, path.name, text.encode(), path.stat().st_mode & 0o777)
    except OSError as e:
        raise PermanentError(
            f"{path} cannot be written: {e.strerror}", hint="check the owner and mode of data/"
        ) from None
    finally:
        os.close(directory)
