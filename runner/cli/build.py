"""``nanokimi build``: the agent image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.context import context_of
from runner.cli.output import err, out


def build(
    ctx: typer.Context,
    tag: Annotated[
        str | None, typer.Option(help="Name of the image; [sandbox] image without it.")
    ] = None,
    base_image: Annotated[str | None, typer.Option(help="Build on this image.")] = None,
    offline_base: Annotated[
        bool,
        typer.Option("--offline-base", help="Make the base from the host's Debian mirror."),
    ] = False,
    ca_bundle: Annotated[
        Path | None,
        typer.Option(help="CA certificates for the build; $SSL_CERT_FILE or $PIP_CERT without it."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also when nothing has changed.")] = False,
) -> None:
    """Build the agent image. Without a reachable registry it makes its own base."""
    from runner.sandbox.build import build_image

    context = context_of(ctx)
    if tag is None:
        tag = context.settings().sandbox.image if context.layout.config.exists() else None
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("PIP_CERT")
    with err.status("building the agent image") as status:
        built = build_image(
            tag=tag or "nanokimi-agent",
            base_image=base_image,
            offline_base=offline_base or None,
            ca_bundle=ca_bundle or (Path(named) if named else None),
            progress=status.update,
            force=force,
        )
    out.print(built)
