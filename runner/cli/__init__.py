"""The command line: one file per noun. ``main`` reads the global options and runs one command."""

from runner.cli.main import main

__all__ = ["main"]
