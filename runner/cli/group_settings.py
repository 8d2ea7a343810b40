"""``nanokimi groups set``: what differs for one group, written into ``config.toml``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from runner.api.client import group_path
from runner.cli.connection import offline_store, serving_api
from runner.cli.context import Context, context_of, run
from runner.cli.output import note, out
from runner.errors import ConfigError, NanokimiError, NotFoundError, PermanentError


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
    context = context_of(ctx)
    layout = context.layout
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
    if not run(lambda: _is_there(context, group)):
        note(f"there is no group {group!r} yet: this takes effect when it appears")


async def _is_there(context: Context, group: str) -> bool:
    """False only where that is certain: the setting is written, whatever the store says."""
    from runner.store import place_of

    try:
        async with serving_api(context) as api:
            if api is not None:
                await api.call("GET", group_path(group))
                return True
        place = place_of(context.layout, context.settings().store)
        if place == context.layout.database and not context.layout.database.exists():
            return False
        async with offline_store(context) as store:
            await store.group(group)
    except NanokimiError as e:
        return e.code != NotFoundError.code
    return True


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
