"""``nanokimi build``: the agent's image, or the one that the orchestrator itself runs in."""

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
    orchestrator: Annotated[
        bool,
        typer.Option("--orchestrator", help='The image "nanokimi" of compose.yaml instead.'),
    ] = False,
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
    from runner.sandbox.build import DEFAULT_TAG, ORCHESTRATOR_TAG, build_image, build_orchestrator

    context = context_of(ctx)
    if tag is None and orchestrator:
        tag = ORCHESTRATOR_TAG
    elif tag is None and context.layout.config.exists():
        tag = context.settings().sandbox.image
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("PIP_CERT")
    make = build_orchestrator if orchestrator else build_image
    with err.status("building the image") as status:
        built = make(
            tag=tag or DEFAULT_TAG,
            base_image=base_image,
            offline_base=offline_base or None,
            ca_bundle=ca_bundle or (Path(named) if named else None),
            progress=status.update,
            force=force,
        )
    done = "built on" if built.built else "up to date, on"
    out.print(f"{built.tag}: {done} {built.base}, {built.size / 1e6:.0f} MB")
