"""``nanokimi init``: a commented config.toml and the API's bearer token."""

from __future__ import annotations

import os

import typer

from runner.api.token import api_token
from runner.channels.secret import webhook_secret
from runner.cli.context import context_of
from runner.cli.output import note, out
from runner.errors import PermanentError


def init(ctx: typer.Context) -> None:
    """Write data/config.toml with comments. Never overwrites one."""
    from runner.settings.template import render_template

    layout = context_of(ctx).layout
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(layout.config, flags, 0o600), "w", encoding="utf-8") as f:
            f.write(render_template())
    except FileExistsError:
        api_token(layout)
        webhook_secret(layout)
        note(f"{layout.config} is there already and was left as it is")
        return
    except OSError as e:
        raise PermanentError(
            f"{layout.config} cannot be written: {e.strerror}",
            hint="choose another directory with --data",
        ) from None
    api_token(layout)
    webhook_secret(layout)
    out.print(f"wrote {layout.config}")
    note("next: nanokimi login, nanokimi build, nanokimi chat")
