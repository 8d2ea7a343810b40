"""What README tells people to type, typed."""

import asyncio
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from rig import log_in, write_config

from runner.demo.provider import DemoProvider
from runner.settings.layout import Layout
from runner.settings.load import parse_settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


# Asks for the help of many commands in one process; prints those that have none.
HELP = """
import json, sys
from typer.testing import CliRunner
from runner.cli.main import app

missing = []
for command in json.loads(sys.argv[1]):
    shown = CliRunner().invoke(app, [*command, "--help"])
    usage = " ".join(shown.output.split())
    if shown.exit_code or f"{' '.join(command)} [OPTIONS]" not in usage:
        missing.append(command)
print(json.dumps(missing))
"""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.S)
    assert found
    return found[1]


async def test_the_bot_of_the_readme_answers(tmp_path: Path) -> None:
    async with DemoProvider() as provider:
        layout = Layout(tmp_path / "data")
        write_config(layout, provider, more='[server]\nlisten = "127.0.0.1:0"')
        log_in(layout, provider)
        command = [sys.executable, "-m", "runner", "--data", str(layout.root), "serve"]
        host = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
        try:
            url = ""
            async with asyncio.timeout(60):
                while not url:
                    await asyncio.sleep(0.05)
                    if layout.host_lock.exists():
                        text = layout.host_lock.read_text() or "{}"
                        url = json.loads(text).get("url", "")
            bot = tmp_path / "bot.py"
            bot.write_text(block("python").replace("http://127.0.0.1:8420", url))
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(bot),
                cwd=tmp_path,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            async with asyncio.timeout(60):
                out, _ = await process.communicate(b"remember the word heron\nwhich word?\n")
            assert out.decode() == "I will remember it.\nThe word was heron.\n"
        finally:
            host.terminate()
            await host.communicate()


def test_the_config_of_the_readme_loads(tmp_path: Path) -> None:
    settings = parse_settings(
        tomllib.loads(block("toml")), {}, path=tmp_path / "data" / "config.toml"
    )
    assert settings.for_group("g").model.model == "kimi-k2.6"


def test_every_command_of_the_readme_exists() -> None:
    commands: list[list[str]] = []
    for line in re.findall(r"^nanokimi (.*?)(?: *#.*)?$", README, re.M):
        words = [w for w in line.split() if not w.startswith("-")]
        nouns = ("groups", "auth", "tasks", "import")
        commands.append(words[:2] if words[0] in nouns else words[:1])
    shown = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(shown.stdout) == []


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
