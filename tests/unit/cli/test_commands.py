"""The command line loads what a command needs, and its overview says what the commands say."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from runner.cli.commands import COMMANDS, LazyGroup
from runner.cli.main import app
from runner.settings.template import render_template

HEAVY = {"fastapi", "uvicorn", "mcp", "docker", "alembic", "trafilatura", "ddgs", "cronsim"}
WHAT_IS_LOADED = """
import sys
from runner.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("code", end.code)
print("loaded", *sys.modules)
"""


def group() -> Any:
    made = typer.main.get_command(app)
    assert isinstance(made, LazyGroup)
    return made


def test_the_overview_says_of_each_command_what_its_own_help_says_first() -> None:
    root = group()
    for name, entry in COMMANDS.items():
        own = root.get_command(None, name).help.strip().split("\n\n")[0]
        assert entry.help == own.replace("\n", " "), name


def test_every_command_has_its_line_in_the_overview() -> None:
    root = group()
    shown = root.get_help(root.make_context("nanokimi", ["groups"]))
    for name, entry in COMMANDS.items():
        assert f"  {name} " in shown
        assert " ".join(entry.help.split()) in " ".join(shown.split())


@pytest.mark.parametrize(
    ("words", "code"),
    [("--help", 0), ("groups list", 0), ("usage", 0), ("logs birds", 1), ("auth status", 3)],
)
def test_a_command_loads_no_library_of_other_commands(
    tmp_path: Path, words: str, code: int
) -> None:
    (tmp_path / "config.toml").write_text(render_template())
    done = subprocess.run(
        [sys.executable, "-c", WHAT_IS_LOADED, "--data", str(tmp_path), *words.split()],
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"code {code}\n" in done.stdout, done.stderr
    loaded = next(line for line in done.stdout.splitlines() if line.startswith("loaded "))
    assert "runner.cli.commands" in loaded
    assert HEAVY & set(loaded.split()) == set()
