"""The commands in this process: quicker than one of their own, and without its logging."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.testing import CliRunner

from runner.cli.commands import LazyGroup
from runner.cli.context import Context

app = typer.Typer(cls=LazyGroup)


@app.callback()
def _main(ctx: typer.Context, data: Annotated[Path, typer.Option()]) -> None:
    ctx.obj = Context(data)


def invoke(data: Path, *words: str) -> Any:
    """Run one command on a data directory; click's ``Result``, with the exception of a mistake."""
    return CliRunner().invoke(app, ["--data", str(data), *words])
