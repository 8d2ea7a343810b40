"""``nanokimi demo``: the whole product against the bundled provider, without an account."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.cli.context import run


def demo(
    ctx: typer.Context,
    backend: Annotated[
        str, typer.Option(help="auto, docker or process: where the agents run.")
    ] = "auto",
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the demo's data directory for a look.")
    ] = False,
) -> None:
    """Show the main job without an account: login, two groups, tools, memory, isolation."""
    from runner.demo.show import show

    del ctx
    raise typer.Exit(run(lambda: show(backend, keep=keep)))
